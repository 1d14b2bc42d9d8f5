"""Segmentation data sets that mmseg lacks."""

from mmseg.datasets import ADE20KDataset, BaseSegDataset, CityscapesDataset, MapillaryDataset_v1
from mmseg.registry import DATASETS

# Classes of Mapillary Vistas 1.2 that are one of Cityscapes, as the official InternImage code joins them.
# All others are ignored.
MAPILLARY_IN_CITYSCAPES = {
    'road': ('Road', 'Lane Marking - General', 'Manhole'),
    'sidewalk': ('Curb', 'Sidewalk'),
    'building': ('Building',),
    'wall': ('Wall',),
    'fence': ('Fence',),
    'pole': ('Pole', 'Utility Pole'),
    'traffic light': ('Traffic Light',),
    'traffic sign': ('Traffic Sign (Front)',),
    'vegetation': ('Vegetation',),
    'terrain': ('Terrain',),
    'sky': ('Sky',),
    'person': ('Person',),
    'rider': ('Bicyclist', 'Motorcyclist', 'Other Rider'),
    'car': ('Car',),
    'truck': ('Truck',),
    'bus': ('Bus',),
    'train': ('On Rails',),
    'motorcycle': ('Motorcycle',),
    'bicycle': ('Bicycle',),
}


@DATASETS.register_module()
class MapillaryCityscapesDataset(MapillaryDataset_v1):
    """Mapillary Vistas 1.2 (``.jpg`` images, ``.png`` labels 0 to 65), read in the 19 classes of Cityscapes.

    The arguments are those of mmseg's ``BaseSegDataset``, but for ``metainfo``: the classes are fixed.
    """

    METAINFO = CityscapesDataset.METAINFO

    @classmethod
    def get_label_map(cls, new_classes=None) -> dict[int, int]:
        """{label in the files: index of the Cityscapes class, or 255}."""
        classes = cls.METAINFO['classes']
        if new_classes is not None and tuple(new_classes) != tuple(classes):
            raise ValueError(
                f'the classes of MapillaryCityscapesDataset are fixed to those of Cityscapes: {classes}; '
                f'got {tuple(new_classes)}'
            )
        index = {name: classes.index(one) for one, names in MAPILLARY_IN_CITYSCAPES.items() for name in names}
        return {label: index.get(name, 255) for label, name in enumerate(MapillaryDataset_v1.METAINFO['classes'])}


@DATASETS.register_module()
class NYUDepthV2Dataset(BaseSegDataset):
    """NYU Depth v2 for semantic segmentation: ``.png`` images, ``.png`` labels 1 to 40; 0 is unlabelled.

    ``ann_file`` lists the images of a split, one name without suffix per line. mmseg's ``NYUDataset`` has the same
    images with their depth. The arguments are those of ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=(
            *('wall', 'floor', 'cabinet', 'bed', 'chair', 'sofa', 'table', 'door', 'window', 'bookshelf'),
            *('picture', 'counter', 'blinds', 'desk', 'shelves', 'curtain', 'dresser', 'pillow', 'mirror', 'floor mat'),
            *('clothes', 'ceiling', 'books', 'refridgerator', 'television', 'paper', 'towel', 'shower curtain', 'box'),
            *('whiteboard', 'person', 'night stand', 'toilet', 'sink', 'lamp', 'bathtub', 'bag', 'otherstructure'),
            *('otherfurniture', 'otherprop'),
        ),
        palette=ADE20KDataset.METAINFO['palette'][:40],
    )

    def __init__(self, img_suffix='.png', seg_map_suffix='.png', reduce_zero_label=True, **kwargs) -> None:
        super().__init__(
            img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=reduce_zero_label, **kwargs
        )
