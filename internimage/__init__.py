"""InternImage: the network, its checkpoints and what can be said about any model, on torch and timm alone.

Importing this package registers nothing. ``import internimage.openmmlab`` registers the backbone, heads and data sets
with OpenMMLab; a config asks for that with ``custom_imports = dict(imports=['internimage.openmmlab'])``.
"""

from .network import VARIANTS, InternImage, build_variant

__version__ = '0.1.0'

__all__ = ['VARIANTS', 'InternImage', 'build_variant']
