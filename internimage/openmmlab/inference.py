"""Use a trained model in three lines:

    model = load_model('config.py', 'checkpoint.pth', device='cpu')
    result = predict(model, 'image.jpg')
    picture = draw(model, 'image.jpg', result, out_file='drawn.png')

Detection and semantic segmentation alike: the config decides which.
"""

import copy
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from mmdet.datasets.transforms import LoadImageFromNDArray
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import nn

from ..checkpoint import check_finite, dataset_meta, load_checkpoint_strict
from .configuration import apply_variables, leaf_datasets, load_config, type_name
from .drawing import LEAST_SIDE, draw_sample, enlarged_picture, with_palette
from .engine import check_classes, dataset_classes, take_any_dtype
from .images import ImageError, read_image, write_image
from .large_images import run_length, save_memory
from .results import Results
from .tta import use_tta

__all__ = ['ImageError', 'describe', 'draw', 'load_model', 'predict', 'read_image']

# mmengine's default scope and its reading of configs change what the whole process sees.
_BUILDING = threading.RLock()


def load_model(config, checkpoint, device='cpu', *, tta: bool = False) -> nn.Module:
    """Builds the model of `config` (a file, the name of a config of the package, or an mmengine `Config`) with the
    weights of `checkpoint`, which is whatever `read_checkpoint` takes.

    The model is in evaluation mode. Its `dataset_meta` holds `classes` (names in index order) and `palette` (one RGB
    color per class), from the checkpoint, or from the config's test data set where the checkpoint has no classes; a
    palette is made if there is none with one color per class. The model may be cast by `.half()`, `.bfloat16()` or
    `.double()`, or moved to `memory_format=torch.channels_last`, and predicts then too.

    Threads may load models, predict with one and the same model, and draw, at the same time. What else builds from
    mmengine's registries in other threads must not run meanwhile.

    Args:
        tta: the model averages several views of each image, as `internimage test --tta` does.

    Raises:
        ConfigError: there is no such config, or its model has no test-time augmentation.
        CheckpointError: the file is missing, not a checkpoint, of another model or other classes, or not finite.
    """
    with _BUILDING:
        cfg = copy.deepcopy(config) if isinstance(config, Config) else load_config(str(config))
        apply_variables(cfg)
        if tta:
            use_tta(cfg)
    dataset = next(leaf_datasets(cfg.test_dataloader.dataset))  # of several: they share classes and pipeline
    with _building(cfg):
        model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
        steps = [_without_annotations(step) for step in dataset.pipeline[1:] if not _loads(step)]
        load = dict(type=LoadImageFromNDArray, to_float32=dataset.pipeline[0].get('to_float32', False))
        model.pipeline = Compose([load, *steps])
        classes = dataset_classes(cfg, 'test', stated=True)
    network = model.module if tta else model
    content = load_checkpoint_strict(network, checkpoint)
    check_finite(content['state_dict'], checkpoint)
    check_classes(classes, content, checkpoint)
    meta = dataset_meta(content, checkpoint)
    if 'classes' not in meta:
        with _building(cfg):
            meta = DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True}).metainfo
    if not tta:
        save_memory(model, rle_masks=False)
    model.cfg = cfg
    model.dataset_meta = with_palette(meta)
    take_any_dtype(network)
    return model.to(device).eval()


@contextmanager
def _building(cfg: Config) -> Iterator[None]:
    """For one thread at a time, in the config's scope."""
    with _BUILDING, DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet')):
        yield


def _loads(step: dict) -> bool:
    return type_name(step).startswith('Load')


def _without_annotations(step: dict) -> dict:
    """A step of a pipeline; of several views, without the variants that read annotations."""
    if type_name(step) != 'TestTimeAug':
        return step
    return {**step, 'transforms': [variants for variants in step['transforms'] if not any(map(_loads, variants))]}


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
    return predict_batch(model, [preprocess(model, read_image(image), rle_masks)])[0]


def preprocess(model: nn.Module, image: np.ndarray, rle_masks: bool = False) -> dict:
    """What the test pipeline makes of an image (H, W, 3) uint8 BGR: `inputs` and `data_samples`, one of each or, for
    test-time augmentation, one per view."""
    data = model.pipeline(dict(img=image, img_id=0))
    for sample in data['data_samples'] if isinstance(data['data_samples'], list) else [data['data_samples']]:
        sample.set_metainfo(dict(rle_masks=rle_masks))
    return data


def predict_batch(model: nn.Module, batch: list[dict]) -> list[BaseDataElement]:
    """The results of `predict` for several images, each as `preprocess` returns it.

    Images that the model pads to the same size run together, so that no image sees more padding than alone and the
    results do not depend on the batch.
    """
    groups = defaultdict(list)
    for index, data in enumerate(batch):
        groups[_padded_size(model, data['inputs'])].append(index)
    results = [None] * len(batch)
    for indices in groups.values():
        with torch.no_grad():
            found = model.test_step(pseudo_collate([batch[i] for i in indices]))
        for i, result in zip(indices, found, strict=True):
            results[i] = _with_codes(result, batch[i]['data_samples'])
    return results


def _padded_size(model: nn.Module, inputs: torch.Tensor | list[torch.Tensor]) -> tuple:
    """(height, width) of an image as the network gets it; of test-time augmentation, those of all its views."""
    if isinstance(inputs, list):
        return tuple(_padded_size(model.module, view) for view in inputs)
    divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1)  # of mmdet's
    return tuple(-(-side // divisor) * divisor for side in inputs.shape[-2:])


def _with_codes(result: BaseDataElement, data_samples) -> BaseDataElement:
    found = result.get('pred_instances')
    sample = data_samples[0] if isinstance(data_samples, list) else data_samples
    if sample.get('rle_masks') and found is not None and isinstance(found.get('masks'), torch.Tensor):  # of other heads
        found.masks = [run_length(mask) for mask in found.masks.cpu().numpy()]
    return result


def draw(
    model: nn.Module, image, result: BaseDataElement, score_thr=0.3, out_file=None, least_side=LEAST_SIDE
) -> np.ndarray:
    """The image with the result of `predict` on it, (H, W, 3) uint8 RGB, also written to `out_file` if that is given.

    `image` is what `predict` was given. Boxes of a score of at most `score_thr` are left out; segmentation does not
    use it. An image whose longer side is under `least_side` pixels is enlarged by a whole factor first, so that the
    labels do not cover it (0: never).
    """
    picture, factor = enlarged_picture(read_image(image), least_side)
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
    return Results.from_sample(result, {'classes': classes}).above(score_thr).records()
