"""The compiled module of the official package, for code that imports it: the operator is that of `ops_dcnv3`."""

from ops_dcnv3.functions import dcnv3_backward, dcnv3_forward

__all__ = ['dcnv3_backward', 'dcnv3_forward']
