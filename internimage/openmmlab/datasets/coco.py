"""mmdet's data sets and metrics in COCO's format, with label i always `classes[i]`.

mmdet numbers labels in the order in which a file lists its categories, and evaluates images that were not predicted as
images in which nothing was found. Its data sets (also those derived from them, those of users, and those that a config
names as a class) share a few functions; these are replaced here, once, when `internimage.openmmlab` is imported.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import PurePath

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset, XMLDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.datasets.objects365 import Objects365V1Dataset, Objects365V2Dataset
from mmdet.evaluation.metrics import CocoMetric, coco_metric
from mmengine.fileio import get
from mmengine.logging import MMLogger, print_log

from .checks.coco import (
    SAID,
    CocoFile,
    ImageFolder,
    category_ids,
    image_size,
    loads_masks,
    read_coco,
    usable_mask,
    without_gc,
)
from .checks.errors import DataError


class CocoAnnotations(COCO):
    """A file in COCO's format as `read_coco` reads it, for mmdet."""

    FILE_NAMES_ARE_PATHS = True  # below the folder of the data set

    def __init__(self, annotation_file: str | None = None):
        super().__init__()
        if annotation_file is None:
            return
        self.file = read_coco(annotation_file)
        say(self.file.notes)
        # Evaluation and data sets write into the entries.
        with without_gc():
            keys = ('images', 'annotations', 'categories')
            self.dataset = self.file.content | {key: [dict(row) for row in self.file.content[key]] for key in keys}
            self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    @staticmethod
    def ids_of_classes(classes, file: CocoFile) -> list:
        """The category id of each class, see `category_ids`."""
        return category_ids(classes, file)

    @staticmethod
    def file_name(image: dict) -> str:
        """The name of an image of the file, below the folder of the data set."""
        return image['file_name']

    def get_cat_ids(self, cat_names=None, sup_names=(), cat_ids=()) -> list:
        """Ids of the categories, in the order of `cat_names` where these are given."""
        if cat_names is None:
            return super().get_cat_ids([], sup_names, cat_ids)
        return self.ids_of_classes(cat_names, self.file)

    def load_imgs(self, ids) -> list[dict]:
        return [dict(image, file_name=self.file_name(image)) for image in super().load_imgs(ids)]

    def annToRLE(self, ann: dict) -> dict:
        """The mask of an annotation, after the checks of `usable_mask`."""
        image = self.imgs[ann['image_id']]
        if not image.get('height') or not image.get('width'):
            raise DataError(f'{self.file.path}: image {image["id"]} has no width and height, which its masks need')
        return super().annToRLE(_with_usable_mask(ann, image, self.file.path))


class Objects365V2Annotations(CocoAnnotations):
    """mmdet cuts folders off the names, and leaves out images that do not exist."""

    FILE_NAMES_ARE_PATHS = False


def say(notes: list[str]) -> None:
    """Logs each line once in the life of the process."""
    for note in notes:
        if note not in SAID:
            SAID.add(note)
            print_log(note, logger='current', level=logging.WARNING)


def read_as_stated(path: str, size: tuple[int, int], backend_args: dict | None = None) -> np.ndarray:
    """The image file in the frame that its annotations are of, (H, W, 3) uint8 BGR.

    That is the photo upright, as `mmcv.imread` reads it; but as it is stored, not turned as its EXIF orientation asks
    for, where only so it has the `size`, (height, width) in pixels, that the annotation file states.

    Raises:
        DataError: it has that size neither way.
    """
    content = get(path, backend_args=backend_args)
    for flag in ('color', 'color_ignore_orientation'):
        image = mmcv.imfrombytes(content, flag=flag)
        if image is None or image.shape[:2] == tuple(size):
            return image
    height, width = image.shape[:2]
    raise DataError(f'{path} has {width}x{height} pixels, the annotation file states {size[1]}x{size[0]}')


def _with_usable_mask(annotation: dict, image: dict, path: str) -> dict:
    try:
        mask = usable_mask(annotation.get('segmentation'), (image['height'], image['width']))
    except ValueError as error:
        raise DataError(
            f'{path}: annotation {annotation["id"]} (image {image["id"]}, {image["file_name"]}) {error}: correct or '
            'delete it'
        ) from None
    return annotation if mask is annotation['segmentation'] else dict(annotation, segmentation=mask)


# In the place of mmdet's and mmcv's functions, which the derived classes share.


def _parse_data_info(self: CocoDataset, raw_data_info: dict) -> dict:
    """mmdet's, for an image under the name that it has on the disk, with its size, and masks that can be drawn."""
    image, folder = raw_data_info['raw_img_info'], self.data_prefix['img']
    if not hasattr(self, '_image_folder'):
        self._image_folder = ImageFolder()
    stated = os.path.join(folder, image['file_name'])
    found = self._image_folder.find(stated) or stated
    image['file_name'] = os.path.relpath(found, folder or '.') if found != stated else image['file_name']
    if not image.get('height') or not image.get('width'):
        image['width'], image['height'], _ = image_size(found)
    if loads_masks(self.pipeline):
        raw_data_info['raw_ann_info'] = [
            _with_usable_mask(annotation, image, self.ann_file) for annotation in raw_data_info['raw_ann_info']
        ]
    return _mmdet_parse_data_info(self, raw_data_info)


def _parse_xml_info(self: XMLDataset, img_info: dict) -> dict:
    """mmdet's, for an image under the name that it has on the disk: mmdet takes every one for a .jpg."""
    if not hasattr(self, '_image_folder'):
        self._image_folder = ImageFolder()
    stated = os.path.join(self.sub_data_root, img_info['file_name'])
    found = self._image_folder.find(stated)
    if found not in (None, stated):
        img_info = dict(img_info, file_name=os.path.relpath(found, self.sub_data_root or '.'))
    return _mmdet_parse_xml_info(self, img_info)


def _load_image(self: LoadImageFromFile, results: dict) -> dict | None:
    """mmcv's, for images with boxes see `read_as_stated`."""
    stated = results.get('height'), results.get('width')
    results = _mmcv_load_image(self, results)
    if results is None or 'instances' not in results or None in stated or self.color_type != 'color':
        return results
    shape = results['img'].shape[:2]
    if shape != stated and ('xml_path' not in results or shape[::-1] == stated):  # nothing follows from an xml's size
        image = read_as_stated(results['img_path'], stated, self.backend_args)
        results['img'] = image.astype(results['img'].dtype)
        results['img_shape'] = results['ori_shape'] = stated
    return results


def _process(self: CocoMetric, data_batch: dict, data_samples: Sequence[dict]) -> None:
    """mmdet's; are the images those of the metric's file?"""
    file = getattr(self._coco_api, 'file', None)
    for sample in data_samples if file else ():
        image, path = self._coco_api.imgs.get(sample['img_id']), sample.get('img_path')
        name = image and type(self._coco_api).file_name(image)
        if image is None or (path and name and PurePath(path).stem != PurePath(name).stem):
            there = f'is {name!r}' if image else 'is not'
            raise DataError(
                f'{file.path} is not the file of these images: image {sample["img_id"]} is {path}, and {there} there'
            )
        if not image.get('height') or not image.get('width'):
            image['height'], image['width'] = sample['ori_shape'][:2]
    _mmdet_process(self, data_batch, data_samples)


def _results2json(self: CocoMetric, results: Sequence[dict], outfile_prefix: str) -> dict:
    """mmdet's, which comes before anything is counted: label i is the category of class i, and the images that were
    predicted count, once each."""
    self.img_ids = [result['img_id'] for result in results]
    once = list({result['img_id']: result for result in reversed(results)}.values())[::-1]
    of = len(self._coco_api.imgs)
    if len(once) < of:
        MMLogger.get_current_instance().info(f'evaluated on the {len(once)} predicted of the {of} images of the file')
    self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
    files = _mmdet_results2json(self, once, outfile_prefix)
    self.cat_ids = sorted(self.cat_ids)  # as COCOeval sorts the classes, whose rows tables take in this order
    return files


_mmdet_parse_data_info, CocoDataset.parse_data_info = CocoDataset.parse_data_info, _parse_data_info
_mmdet_parse_xml_info, XMLDataset.parse_data_info = XMLDataset.parse_data_info, _parse_xml_info
_mmcv_load_image, LoadImageFromFile.transform = LoadImageFromFile.transform, _load_image
_mmdet_process, CocoMetric.process = CocoMetric.process, _process
_mmdet_results2json, CocoMetric.results2json = CocoMetric.results2json, _results2json
coco_metric.COCO = CocoDataset.COCOAPI = Objects365V1Dataset.COCOAPI = CocoAnnotations
Objects365V2Dataset.COCOAPI = Objects365V2Annotations
