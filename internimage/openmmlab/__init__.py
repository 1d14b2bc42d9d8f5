"""InternImage in OpenMMLab.

Importing this package registers the backbone, detectors, heads, data sets, hooks and optimizer constructors, and makes
mmengine read checkpoints through :mod:`internimage.checkpoint`.

A config asks for it with ``custom_imports = dict(imports=['internimage.openmmlab'])``.
"""

from . import datasets, engine, models

__all__ = ['datasets', 'engine', 'models']
