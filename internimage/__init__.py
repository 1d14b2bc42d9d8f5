"""InternImage detection and segmentation on OpenMMLab.

Importing this package registers its models, data sets and optimizer constructor; a config asks for that with
``custom_imports = dict(imports=['internimage'])``.
"""

import sys

__version__ = '0.1.0'

try:
    from ._compat import without_onedl_message

    with without_onedl_message():
        from . import mmcv_ops  # noqa: F401, I001  (before anything that takes operators from mmcv)
        from . import datasets, engine, models, openmmlab_checkpoint  # noqa: F401
except Exception:
    # `python -m internimage` reports on an environment in which this fails. Python imports the package before it runs
    # that, from its module `runpy`; whoever else imports the package is told now.
    importer = sys._getframe(1)
    while 'importlib' in importer.f_globals['__name__']:
        importer = importer.f_back
    if importer.f_globals['__name__'] != 'runpy':
        raise
