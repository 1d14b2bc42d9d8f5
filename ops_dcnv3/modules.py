"""The layer under the names of the official package, for code that is written for it: both are one here."""

from .module import DCNv3

DCNv3_pytorch = DCNv3

__all__ = ['DCNv3', 'DCNv3_pytorch']
