"""InternImage: the network, its checkpoints, and the cost of any model (parameters, FLOPs), on torch and timm alone.

Importing this package registers nothing. ``import internimage.openmmlab`` registers the backbone, heads and data sets
with OpenMMLab; a config asks for that with ``custom_imports = dict(imports=['internimage.openmmlab'])``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .network import VARIANTS, InternImage, build_variant

__version__ = '0.1.0'

__all__ = ['VARIANTS', 'InternImage', 'build_variant']


def __getattr__(name: str):
    # Imported on first use, so that `internimage env` can report on an environment in which the import fails.
    if name in __all__:
        from . import network

        return getattr(network, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
