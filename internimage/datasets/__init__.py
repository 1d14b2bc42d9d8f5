import sys

from . import coco  # noqa: F401  (takes the place of mmdet's functions)
from .lvis import LVISFasterDataset, LVISFasterMetric
from .segmentation import MapillaryCityscapesDataset, NYUDepthV2Dataset

__all__ = [
    'LVISFasterDataset',
    'LVISFasterMetric',
    'MapillaryCityscapesDataset',
    'NYUDepthV2Dataset',
    'ShapesDataset',
    'ShapesSegDataset',
    'generate_shapes',
]

# `python -m internimage.datasets.shapes` runs that file as `__main__`: imported here too, it would register twice.
if sys.argv[:1] != ['-m']:
    from .shapes import ShapesDataset, ShapesSegDataset, generate_shapes
