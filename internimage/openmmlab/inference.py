"""Use a trained model in three lines:

    model = load_model('config.py', 'checkpoint.pth', device='cpu')
    result = predict(model, 'image.jpg')
    picture = draw(model, 'image.jpg', result, out_file='drawn.png')

Detection and semantic segmentation alike: the config decides which.
"""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from mmdet.datasets.transforms import LoadImageFromNDArray
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import nn

from ..checkpoint import check_finite, dataset_meta, load_checkpoint_strict
from .configuration import apply_variables, leaf_datasets
from .drawing import draw_sample, mask_array, with_palette
from .engine import check_classes, dataset_classes, take_any_dtype
from .images import ImageError, read_image, write_image
from .large_images import run_length, save_memory

__all__ = ['ImageError', 'describe', 'draw', 'load_model', 'predict', 'read_image']

# mmengine's default scope and its reading of configs change what the whole process sees.
_BUILDING = threading.RLock()


def load_model(config, checkpoint, device='cpu') -> nn.Module:
    """Builds the model of `config` (a file name or an mmengine `Config`) with the weights of the file `checkpoint`.

    The model is in evaluation mode. Its `dataset_meta` holds `classes` (names in index order) and `palette` (one RGB
    color per class), from the checkpoint, or from the config's test data set where the checkpoint has no classes; a
    palette is made if there is none with one color per class. The model may be cast by `.half()`, `.bfloat16()` or
    `.double()`, or moved to `memory_format=torch.channels_last`, and predicts then too.

    Threads may load models, predict with one and the same model, and draw, at the same time. What else builds from
    mmengine's registries in other threads must not run meanwhile.

    Raises:
        CheckpointError: the file is missing, not a checkpoint, of another model or other classes, or not finite.
    """
    with _BUILDING:
        cfg = copy.deepcopy(config) if isinstance(config, Config) else Config.fromfile(config)
        apply_variables(cfg)
    dataset = next(leaf_datasets(cfg.test_dataloader.dataset))  # of several: they share classes and pipeline
    with _building(cfg):
        model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
        steps = [step for step in dataset.pipeline[1:] if not _name(step['type']).startswith('Load')]
        load = dict(type=LoadImageFromNDArray, to_float32=dataset.pipeline[0].get('to_float32', False))
        model.pipeline = Compose([load, *steps])
        classes = dataset_classes(cfg, 'test', stated=True)
    content = load_checkpoint_strict(model, checkpoint)
    check_finite(content['state_dict'], checkpoint)
    check_classes(classes, content, checkpoint)
    meta = dataset_meta(content, checkpoint)
    if 'classes' not in meta:
        with _building(cfg):
            meta = DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True}).metainfo
    save_memory(model, rle_masks=False)
    model.cfg = cfg
    model.dataset_meta = with_palette(meta)
    take_any_dtype(model)
    return model.to(device).eval()


@contextmanager
def _building(cfg: Config) -> Iterator[None]:
    """For one thread at a time, in the config's scope."""
    with _BUILDING, DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet')):
        yield


def _name(kind) -> str:
    """The name of a `type`: 'scope.Name', or the class itself in configs of mmengine's pure Python style."""
    return kind.split('.')[-1] if isinstance(kind, str) else kind.__name__


def predict(model: nn.Module, image, *, rle_masks: bool = False) -> BaseDataElement:
    """Runs a model of `load_model` on one image, given in any form that `read_image` takes.

    Args:
        rle_masks: masks as a list of COCO run-length codes, which for images of many megapixels are a thousandth of
            the arrays; `describe` and `draw` take either.

    Returns:
        mmdet's DetDataSample (`pred_instances`: `bboxes` xyxy in pixels of the image, upright, `scores` best first,
        `labels`, and `masks` (n, H, W) bool where the model has them) or mmseg's SegDataSample
        (`pred_sem_seg.data`: class indices, (1, H, W); also `seg_logits`, up to 2**26 values).

    Raises:
        ImageError: `image` is not an image; the message says what it is and what was expected.
    """
    image = read_image(image)
    data = model.pipeline(dict(img=image, img_id=0))
    data['data_samples'].set_metainfo(dict(rle_masks=rle_masks))
    with torch.no_grad():
        result = model.test_step(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))[0]
    found = result.get('pred_instances')
    if rle_masks and found is not None and isinstance(found.get('masks'), torch.Tensor):  # of other heads
        found.masks = [run_length(mask) for mask in found.masks.cpu().numpy()]
    return result


def draw(model: nn.Module, image, result: BaseDataElement, score_thr=0.3, out_file=None, least_side=480) -> np.ndarray:
    """The image with the result of `predict` on it, (H, W, 3) uint8 RGB, also written to `out_file` if that is given.

    `image` is what `predict` was given. Boxes of a score of at most `score_thr` are left out; segmentation does not
    use it. An image whose longer side is under `least_side` pixels is enlarged by a whole factor first, so that the
    labels do not cover it (0: never).
    """
    picture = cv2.cvtColor(read_image(image), cv2.COLOR_BGR2RGB)
    factor = -(-least_side // max(picture.shape[:2])) or 1
    if factor > 1:
        size = picture.shape[1] * factor, picture.shape[0] * factor
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    drawn = draw_sample(picture, result, model.dataset_meta, score_thr, factor)
    if out_file is not None:
        write_image(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), out_file)
    return drawn


def describe(result: BaseDataElement | dict, classes, score_thr=0.0) -> list[dict]:
    """A result of `predict` (or its `to_dict()`) in plain Python, ready for JSON; masks as COCO run-length codes.

    Returns:
        one dict per detection with a score above `score_thr`, best first: `label` (class index), `class`, `score`,
        `bbox` (x1, y1, x2, y2 in pixels) and `mask` where there are masks; or one dict per class that a segmentation
        found: `label`, `class`, `mask`.
    """
    result = result.to_dict() if isinstance(result, BaseDataElement) else result
    if 'pred_sem_seg' in result:
        label_map = result['pred_sem_seg']['data'][0].cpu().numpy().astype(np.int64, copy=False)
        labels = np.flatnonzero(np.bincount(label_map.ravel())).tolist()
        return [
            {'label': label, 'class': classes[label], 'mask': _json_mask(run_length(label_map == label))}
            for label in labels
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
        for record, i in zip(records, order, strict=True):
            mask = found['masks'][i]
            record['mask'] = _json_mask(mask if isinstance(mask, dict) else run_length(mask_array(mask)))
    return records


def _json_mask(code: dict) -> dict:
    counts = code['counts']
    return {'size': list(code['size']), 'counts': counts.decode() if isinstance(counts, bytes) else counts}
