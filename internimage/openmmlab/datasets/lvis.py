"""LVIS v1 and its metric on faster-coco-eval, which knows the rules of LVIS.

mmdet's LVISV1Dataset and LVISMetric need the package `lvis`, whose last release (0.5.3, of 2020) does not run on numpy
1.24 or newer.
"""

import tempfile

import numpy as np
from faster_coco_eval import COCO as FasterCOCO
from faster_coco_eval import COCOeval_faster
from mmdet.datasets import CocoDataset, LVISV1Dataset
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS, METRICS
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger

from .checks.coco import CocoFile, category_ids
from .checks.errors import DataError
from .coco import CocoAnnotations


class LVISAnnotations(CocoAnnotations):
    """A file of LVIS v1 behind the interface of mmdet's COCO class."""

    @staticmethod
    def ids_of_classes(classes, file: CocoFile) -> list[int]:
        """By name; for the published list, in which mmdet spells a name differently, by the order of ids."""
        published = LVISV1Dataset.METAINFO['classes']
        ids = sorted(file.names)
        if tuple(classes) == published and len(ids) == len(published):
            same = sum(file.names[id] == name for id, name in zip(ids, published, strict=True))
            if same > 0.99 * len(ids):
                return ids
        return category_ids(classes, file)

    @staticmethod
    def file_name(image: dict) -> str:
        """An image has no name but an address, http://images.cocodataset.org/train2017/000000391895.jpg."""
        return '/'.join(image['coco_url'].split('/')[-2:]) if 'coco_url' in image else image['file_name']


@DATASETS.register_module()
class LVISFasterDataset(CocoDataset):
    """LVIS v1, 1203 classes. ``data_prefix['img']`` is the folder that has COCO's ``train2017`` and ``val2017``."""

    METAINFO = LVISV1Dataset.METAINFO
    COCOAPI = LVISAnnotations


@METRICS.register_module()
class LVISFasterMetric(CocoMetric):
    """The metric of LVIS v1 (arXiv 1908.03195, section 3): AP of up to 300 boxes per image, in which a class counts
    only where an image was checked for it; APr, APc, APf of the rare, common and frequent classes.

    Arguments as CocoMetric; `metric` is 'bbox', 'segm' or both, and `ann_file` must be given. Results are called
    ``lvis/bbox_AP`` and so on, with `classwise` also ``lvis/bbox_AP_<class>``; -1 where nothing can be counted.

    Raises:
        ValueError: no ann_file, or another metric.
    """

    default_prefix = 'lvis'
    names = {'AP': 'AP_all', 'AP50': 'AP_50', 'AP75': 'AP_75', 'APs': 'AP_small', 'APm': 'AP_medium', 'APl': 'AP_large'}
    names.update({name: name for name in ('APr', 'APc', 'APf')}, AR='AR_all')

    def __init__(self, ann_file: str, metric: str | list[str] = 'bbox', **kwargs):
        super().__init__(metric=metric, **kwargs)
        if not set(self.metrics) <= {'bbox', 'segm'}:
            raise ValueError(f"LVISFasterMetric: metric must be 'bbox' or 'segm' or a list of them, got {metric!r}")
        if not ann_file:
            raise ValueError(f'LVISFasterMetric: ann_file must be a file of LVIS v1, got {ann_file!r}')
        with get_local_path(ann_file, backend_args=self.backend_args) as path:
            self._coco_api = LVISAnnotations(path)
        without = [category['name'] for category in self._coco_api.cats.values() if 'frequency' not in category]
        if without:
            raise DataError(
                f"{ann_file}: category {without[0]!r} has no frequency ('r', 'c' or 'f'), which LVIS's metric needs"
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """As CocoMetric's, `results` the pairs (ground truth, prediction) of `process`."""
        logger = MMLogger.get_current_instance()
        truth = FasterCOCO(self._coco_api.dataset)
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            files = self.results2json(
                [prediction for _, prediction in results], self.outfile_prefix or f'{folder}/lvis'
            )
            if self.format_only:
                return found
            for metric in self.metrics:
                detections = truth.loadRes(files[metric])
                evaluator = COCOeval_faster(truth, detections, metric, lvis_style=True, print_function=logger.info)
                evaluator.params.catIds = self.cat_ids
                evaluator.params.imgIds = self.img_ids
                evaluator.params.maxDets = [300]
                evaluator.params.iouThrs = self.iou_thrs
                evaluator.evaluate()
                evaluator.accumulate()
                evaluator.summarize()
                stats = evaluator.stats_as_dict
                found.update({f'{metric}_{name}': float(stats[theirs]) for name, theirs in self.names.items()})
                if self.classwise:
                    found.update(self._of_each_class(metric, evaluator.eval['precision']))
        return found

    def _of_each_class(self, metric: str, precision: np.ndarray) -> dict[str, float]:
        """`precision`: (IoU thresholds, recalls, classes, ranges of area, maxDets), -1 where nothing was counted."""
        found = {}
        for category, values in zip(self._coco_api.load_cats(self.cat_ids), precision[:, :, :, 0, -1].T, strict=True):
            counted = values[values > -1]
            found[f'{metric}_AP_{category["name"]}'] = float(counted.mean()) if len(counted) else -1.0
        return found
