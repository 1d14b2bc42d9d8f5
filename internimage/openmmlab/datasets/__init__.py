# Importing these replaces functions of OpenMMLab.
from . import coco, image_folders, pipeline_errors, transforms  # noqa: F401
from .label_maps import LabelMapDataset
from .lvis import LVISFasterDataset, LVISFasterMetric
from .segmentation import MapillaryCityscapesDataset, NYUDepthV2Dataset
from .shapes import ShapesDataset, ShapesSegDataset, generate_shapes

__all__ = [
    'LVISFasterDataset',
    'LVISFasterMetric',
    'LabelMapDataset',
    'MapillaryCityscapesDataset',
    'NYUDepthV2Dataset',
    'ShapesDataset',
    'ShapesSegDataset',
    'generate_shapes',
]
