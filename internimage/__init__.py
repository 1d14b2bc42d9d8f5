"""InternImage detection and segmentation on OpenMMLab.

Importing this package registers its models, data sets and optimizer constructor; a config asks for that with
``custom_imports = dict(imports=['internimage'])``.
"""

import sys

__version__ = '0.1.0'

# `python -m internimage` reports on an environment in which the imports below may be what fails.
if sys.argv[:1] != ['-m']:
    from ._compat import without_onedl_message

    with without_onedl_message():
        from . import mmcv_ops  # noqa: F401, I001  (before anything that takes operators from mmcv)
        from . import datasets, engine, models, openmmlab_checkpoint  # noqa: F401
