"""Results of large images in little memory, bit for bit those of mmdet and mmseg.

mmseg resizes the scores of all classes to the size of the image before it takes the best: 150 classes of 12 megapixels
are 7 GB. mmdet pastes each mask into an array of the image's size and keeps them all: 100 masks of 48 megapixels are
4.8 GB.
"""

from functools import partial

import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.structures import PixelData
from mmseg.models import BaseSegmentor
from mmseg.models.utils import resize
from pycocotools import mask as coco_mask
from torch import Tensor, nn

# Scores of one image (classes x pixels) up to which mmseg's own way is taken, which keeps them: 256 MiB of float32.
MANY_SCORES = 2**26
FEW_CLASSES = 4  # are little memory anyway, and PyTorch resizes some such numbers of channels by another kernel
BAND = 2**16  # pixels that are compared at a time: they stay in the processor's cache


def save_memory(model: nn.Module, rle_masks: bool = True) -> None:
    """Changes what a built model returns: a segmentor, beyond `MANY_SCORES`, the label map alone, without `seg_logits`;
    a detector its masks as a list of COCO run-length codes, which mmdet's metrics take as well.

    Not for mmseg's test-time augmentation, which adds the scores up.

    Args:
        rle_masks: for all images; where False, for those whose data sample says so by the metainfo `rle_masks`.
    """
    if getattr(type(model), 'postprocess_result', None) is BaseSegmentor.postprocess_result:
        model.postprocess_result = partial(_label_maps, model)
    for module in model.modules():
        if isinstance(module, FCNMaskHead):
            module._predict_by_feat_single = partial(_run_lengths, module, rle_masks)


def run_length(mask: np.ndarray, size: tuple[int, int] | None = None, origin: tuple[int, int] = (0, 0)) -> dict:
    """One mask (h, w) bool as pycocotools encodes it: `size` and `counts` (bytes). Only the box around it is walked.

    Args:
        size: (H, W) of the image of which `mask` is a part; default: `mask` is of the whole image.
        origin: row and column of the image at which that part begins.
    """
    height, width = size or mask.shape
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return coco_mask.frPyObjects({'size': [height, width], 'counts': [height * width]}, height, width)
    top, bottom = rows[0], rows[-1] + 1
    columns = np.flatnonzero(mask[top:bottom].any(0))
    left, right = columns[0], columns[-1] + 1
    # Column after column, where the mask begins and where it ends, counted in the column-major image.
    padded = np.pad(mask[top:bottom, left:right].T, ((0, 0), (1, 1)))
    column, row = np.nonzero(padded[:, 1:] != padded[:, :-1])
    changes = (origin[1] + left + column) * height + origin[0] + top + row
    # A run that ends at the bottom of a column and continues at the top of the next one is one run.
    values, times = np.unique(changes, return_counts=True)
    changes = values[times == 1]
    counts = np.diff(changes, prepend=0, append=height * width)
    counts = counts[: len(counts) - (counts[-1] == 0)]
    return coco_mask.frPyObjects({'size': [height, width], 'counts': counts.tolist()}, height, width)


def decode_box(code: dict) -> tuple[np.ndarray, int, int]:
    """The part of a run-length code's mask that is not empty: (h, w) uint8 of 0 and 1, and its first row and column.

    `pycocotools.mask.decode` fills an array of the image's size for each mask.
    """
    height = code['size'][0]
    ends = np.cumsum(_counts(code['counts']))
    starts, ends = ends[:-1:2], ends[1::2]  # in the column-major image, of the runs of ones
    filled = ends > starts
    starts, ends = starts[filled], ends[filled]
    if not len(starts):
        return np.zeros((0, 0), np.uint8), 0, 0
    left, right = starts[0] // height, (ends[-1] - 1) // height + 1
    columns = np.zeros((right - left) * height, np.uint8)
    for start, end in zip((starts - left * height).tolist(), (ends - left * height).tolist(), strict=True):
        columns[start:end] = 1
    columns = columns.reshape(right - left, height)
    rows = np.flatnonzero(columns.any(0))
    top, bottom = rows[0], rows[-1] + 1
    return np.ascontiguousarray(columns[:, top:bottom].T), int(top), int(left)


def _counts(counts) -> np.ndarray:
    """The lengths of the runs, of zeros first, from the text in which COCO stores them: five bits a character, least
    first, with a sign; from the fourth on differences to the one two before."""
    text = counts.encode() if isinstance(counts, str) else counts
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(digits < 32)
    first = np.concatenate([[0], last[:-1] + 1])
    place = 5 * (np.arange(len(digits)) - np.repeat(first, last - first + 1))
    values = np.add.reduceat((digits & 31) << place, first)
    values -= np.where(digits[last] & 16, np.int64(32) << place[last], 0)
    for parity in (1, 2):  # of those from the second and third on
        values[parity::2] = np.cumsum(values[parity::2])
    return values


def _label_maps(model: BaseSegmentor, seg_logits: Tensor, data_samples=None) -> list:
    """Replaces `BaseSegmentor.postprocess_result`."""
    classes = seg_logits.shape[1]
    if data_samples is None or classes <= FEW_CLASSES:
        return BaseSegmentor.postprocess_result(model, seg_logits, data_samples)
    for i, sample in enumerate(data_samples):
        if classes * np.prod(sample.ori_shape, dtype=int) <= MANY_SCORES:
            BaseSegmentor.postprocess_result(model, seg_logits[i : i + 1], [sample])
        else:
            sample.set_data({'pred_sem_seg': PixelData(data=_best_classes(model, seg_logits[i : i + 1], sample))})
    return data_samples


def _best_classes(model: BaseSegmentor, scores: Tensor, sample) -> Tensor:
    """The classes with the best of the scores (1, classes, h, w), resized to the image's size: (1, H, W) int64.

    mmseg's function resizes the scores, of one class at a time, which changes no bit of them; but in channels_last,
    for which PyTorch has a kernel of another rounding, they are those of the contiguous layout.
    """
    meta = sample.metainfo
    left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
    scores = scores[:, :, top : scores.shape[2] - bottom, left : scores.shape[3] - right]
    if meta.get('flip'):
        scores = scores.flip(3 if meta['flip_direction'] == 'horizontal' else 2)
    if scores.stride(1) == 1:
        scores = scores.contiguous()
    finite = bool(scores.isfinite().all())
    best = labels = None
    for label in range(scores.shape[1]):
        values = resize(
            scores[:, label : label + 1],
            size=meta['ori_shape'],
            mode='bilinear',
            align_corners=model.align_corners,
            warning=False,
        )[0, 0]
        if best is None:
            best, labels = values, torch.zeros_like(values, dtype=torch.int16)
        else:
            _keep_best(best, labels, values, label, finite)
    return labels[None].long()


def _keep_best(best: Tensor, labels: Tensor, values: Tensor, label: int, finite: bool) -> None:
    """One step of argmax, in place: the first of equal values stays, and NaN is above all."""
    best, labels, values = (x.flatten().split(BAND) for x in (best, labels, values))
    for b, i, v in zip(best, labels, values, strict=True):
        better = v > b
        if not finite:
            better |= v.isnan() & ~b.isnan()
        i.masked_fill_(better, label)
        torch.maximum(b, v, out=b)


def _run_lengths(
    head: FCNMaskHead,
    always: bool,
    mask_preds,
    bboxes,
    labels,
    img_meta,
    rcnn_test_cfg,
    rescale=False,
    activate_map=False,
) -> list[dict] | Tensor:
    """Replaces `FCNMaskHead._predict_by_feat_single`, which it calls for one mask at a time."""
    paste = partial(
        type(head)._predict_by_feat_single,
        head,
        img_meta=img_meta,
        rcnn_test_cfg=rcnn_test_cfg,
        rescale=rescale,
        activate_map=activate_map,
    )
    wanted = always or img_meta.get('rle_masks', False)
    if not wanted or rcnn_test_cfg.mask_thr_binary < 0:  # below 0 there are no masks, but probabilities
        return paste(mask_preds, bboxes, labels)
    each = (slice(i, i + 1) for i in range(len(mask_preds)))
    return [run_length(paste(mask_preds[i], bboxes[i], labels[i])[0].cpu().numpy()) for i in each]
