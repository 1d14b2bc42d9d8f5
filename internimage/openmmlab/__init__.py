"""InternImage in OpenMMLab.

Importing this package registers the backbone, detectors, heads, data sets, hooks and optimizer constructors, and makes
mmengine read checkpoints through :mod:`internimage.checkpoint`.

A config asks for it with ``custom_imports = dict(imports=['internimage.openmmlab'])``.
"""

from ._compat import without_onedl_message

with without_onedl_message():
    from . import ops  # noqa: I001  (before anything that takes operators from mmcv)
    from . import checkpoint, datasets, engine, models
    from .predictor import Predictor
    from .results import Results, to_coco

__all__ = ['Predictor', 'Results', 'checkpoint', 'datasets', 'engine', 'models', 'ops', 'to_coco']
