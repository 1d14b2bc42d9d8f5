"""Use a trained model in three lines:

    model = load_model('config.py', 'checkpoint.pth', device='cpu')
    result = predict(model, 'image.jpg')
    picture = draw(model, 'image.jpg', result, out_file='drawn.png')

Detection and semantic segmentation alike: the config decides which.
"""

import copy

import cv2
import mmcv
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmdet.visualization import DetLocalVisualizer
from mmdet.visualization.palette import get_palette
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.structures import BaseDataElement, PixelData
from mmseg.models import BaseSegmentor
from mmseg.visualization import SegLocalVisualizer
from torch import nn

from ..checkpoint import dataset_meta, load_checkpoint_strict
from .configuration import apply_classes, leaf_datasets


class ImageError(ValueError):
    """A file that is not an image. The message is one line that names it."""


def load_model(config, checkpoint, device='cpu') -> nn.Module:
    """Builds the model of `config` (a file name or an mmengine `Config`) with the weights of the file `checkpoint`.

    The model is in evaluation mode. Its `dataset_meta` holds `classes` (names in index order) and `palette` (RGB),
    from the checkpoint, or from the config's test data set where the checkpoint has none.

    Raises:
        CheckpointError: the file is missing, not a checkpoint, or of another model.
    """
    cfg = copy.deepcopy(config) if isinstance(config, Config) else Config.fromfile(config)
    apply_classes(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet')):
        model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
        meta = dataset_meta(load_checkpoint_strict(model, checkpoint))
        dataset = next(leaf_datasets(cfg.test_dataloader.dataset))  # of several: they share classes and pipeline
        if 'classes' not in meta:
            meta = DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True}).metainfo
        load, *transforms = dataset.pipeline
        transforms = [step for step in transforms if not step['type'].split('.')[-1].startswith('Load')]
        model.pipeline = Compose([{**load, 'type': 'LoadImageFromNDArray'}, *transforms])
    model.cfg = cfg
    model.dataset_meta = {'palette': get_palette('random', len(meta['classes'])), **meta}
    model.visualizer = SegLocalVisualizer(alpha=0.5) if isinstance(model, BaseSegmentor) else DetLocalVisualizer()
    model.visualizer.dataset_meta = model.dataset_meta
    return model.to(device).eval()


def read_image(path) -> np.ndarray:
    """The image file `path` as OpenMMLab reads it: (H, W, 3) uint8, BGR, turned upright by its EXIF orientation.

    Raises:
        ImageError: there is no such file, or it is not an image.
    """
    try:
        image = mmcv.imread(str(path))
    except OSError as error:
        raise ImageError(f'{path}: {error.strerror or "does not exist"}') from error
    except cv2.error:
        image = None  # an empty file
    if image is None:
        raise ImageError(f'{path}: not an image')
    return image


def predict(model: nn.Module, image) -> BaseDataElement:
    """Runs a model of `load_model` on one image: a file name, or an (H, W, 3) uint8 BGR array.

    Returns:
        mmdet's DetDataSample (`pred_instances`: `bboxes` xyxy in pixels of the image as given, `scores` best first,
        `labels`, and `masks` (n, H, W) bool where the model has them) or mmseg's SegDataSample
        (`pred_sem_seg.data`: class indices, (1, H, W)).

    Raises:
        ImageError: the file is not an image.
    """
    data = model.pipeline(dict(img=_as_array(image), img_id=0))
    with torch.no_grad():
        return model.test_step(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))[0]


def draw(model: nn.Module, image, result: BaseDataElement, score_thr=0.3, out_file=None, least_side=480) -> np.ndarray:
    """The image with the result of `predict` on it, (H, W, 3) uint8 RGB, also written to `out_file` if that is given.

    Boxes of a score of at most `score_thr` are left out; segmentation does not use it. An image whose longer side is
    under `least_side` pixels is enlarged by a whole factor first, so that the labels do not cover it (0: never).
    """
    picture = mmcv.bgr2rgb(_as_array(image))
    factor = -(-least_side // max(picture.shape[:2])) or 1
    picture, result = _enlarged(picture, result.cpu(), factor)
    options = dict(pred_score_thr=score_thr) if isinstance(result, DetDataSample) else {}
    # Without `out_file` the visualizer hands the picture to its storage backends: it has none.
    model.visualizer.add_datasample('', picture, result, draw_gt=False, **options)
    drawn = model.visualizer.get_image()
    if out_file is not None:
        mmcv.imwrite(mmcv.rgb2bgr(drawn), str(out_file))
    return drawn


def _enlarged(picture: np.ndarray, result: BaseDataElement, factor: int) -> tuple[np.ndarray, BaseDataElement]:
    if factor == 1:
        return picture, result
    height, width = picture.shape[:2]
    picture = cv2.resize(picture, (width * factor, height * factor), interpolation=cv2.INTER_CUBIC)
    result = result.clone()
    repeat = lambda x: torch.as_tensor(x).repeat_interleave(factor, -1).repeat_interleave(factor, -2)  # noqa: E731
    if 'pred_sem_seg' in result:
        result.pred_sem_seg = PixelData(data=repeat(result.pred_sem_seg.data))
    else:
        found = result.pred_instances
        found.bboxes = found.bboxes * factor
        if 'masks' in found:
            found.masks = repeat(found.masks)
    return picture, result


def describe(result: BaseDataElement | dict, classes, score_thr=0.0) -> list[dict]:
    """A result of `predict` (or its `to_dict()`) in plain Python, ready for JSON; masks as COCO run-length codes.

    Returns:
        one dict per detection with a score above `score_thr`, best first: `label` (class index), `class`, `score`,
        `bbox` (x1, y1, x2, y2 in pixels) and `mask` where there are masks; or one dict per class that a segmentation
        found: `label`, `class`, `mask`.
    """
    result = result.to_dict() if isinstance(result, BaseDataElement) else result
    if 'pred_sem_seg' in result:
        label_map = result['pred_sem_seg']['data'][0].cpu().numpy()
        labels = np.unique(label_map)
        return [
            {'label': int(label), 'class': classes[label], 'mask': mask}
            for label, mask in zip(labels, _run_lengths(label_map == label for label in labels), strict=True)
        ]
    found = result['pred_instances']
    order = found['scores'].argsort(descending=True)
    order = order[found['scores'][order] > score_thr].tolist()
    records = [
        {
            'label': int(found['labels'][i]),
            'class': classes[int(found['labels'][i])],
            'score': round(float(found['scores'][i]), 5),
            'bbox': [round(value, 2) for value in found['bboxes'][i].tolist()],
        }
        for i in order
    ]
    if 'masks' in found:
        masks = _run_lengths(np.asarray(found['masks'][i].cpu()) for i in order)
        for record, mask in zip(records, masks, strict=True):
            record['mask'] = mask
    return records


def _run_lengths(masks) -> list[dict]:
    return [{'size': code['size'], 'counts': code['counts'].decode()} for code in encode_mask_results(masks)]


def _as_array(image) -> np.ndarray:
    return image if isinstance(image, np.ndarray) else read_image(image)
