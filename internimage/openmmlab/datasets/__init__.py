import sys

# These take the place of OpenMMLab's functions.
from . import coco, image_folders, pipeline_errors, transforms  # noqa: F401
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

# `python -m internimage.openmmlab.datasets.shapes` runs that file as `__main__`: imported here too, it would register twice.
if sys.argv[:1] != ['-m']:
    from .shapes import ShapesDataset, ShapesSegDataset, generate_shapes
