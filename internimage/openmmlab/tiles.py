"""Predicting large images tile by tile, at the images' own resolution."""

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import nn
from torchvision.ops import box_iou, clip_boxes_to_image

from .large_images import run_length
from .results import Results

SAME = 0.5  # boxes of two tiles with at least this IoU, where both tiles see them, are of one object
LEAST_TILE = 32  # pixels: the stride of the last feature map
MARGIN = 2  # pixels: a box that comes closer to a tile's edge may be cut there

Window = tuple[int, int, int, int]


def check_tiles(tile, overlap: float) -> tuple[int, int] | None:
    """The size of the tiles, pixels or (height, width) or None, as (height, width).

    Raises:
        ValueError: a side is below `LEAST_TILE`, or `overlap` is not at least 0 and below 1.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f'overlap must be at least 0 and below 1, got {overlap:g}')
    size = (tile, tile) if isinstance(tile, int) else tile
    if size is None:
        return None
    if len(size) != 2 or min(size) < LEAST_TILE:
        raise ValueError(f'tile must be (height, width) of at least {LEAST_TILE} pixels, got {tile}')
    return tuple(size)


def tile_windows(shape: tuple[int, int], tile: tuple[int, int], overlap: float) -> list[Window]:
    """Windows (x1, y1, x2, y2) of the size `tile` (height, width) that cover an image of `shape` (H, W), row by row.

    Neighbours share at least `overlap` of their side; the last of a row or column is moved back into the image.
    """
    rows, columns = (_starts(whole, side, overlap) for whole, side in zip(shape, tile, strict=True))
    (height, width), (h, w) = shape, tile
    return [(x, y, min(x + w, width), min(y + h, height)) for y in rows for x in columns]


def _starts(whole: int, side: int, overlap: float) -> list[int]:
    """Where the windows of a length begin on a line of another."""
    step = max(1, int(side * (1 - overlap)))
    return [min(start, whole - side) for start in range(0, whole - side + step, step)] if whole > side else [0]


def detect_in_tiles(
    image: np.ndarray,
    windows: Sequence[Window],
    predict: Callable[[list[np.ndarray]], list[Results]],
    batch_size: int = 1,
) -> Results:
    """The objects of an image, found in each of its windows and put together (`merged`).

    Args:
        image: (H, W, 3).
        predict: what is found in each of several parts of the image.
    """
    parts = []
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size]
        found = predict([np.ascontiguousarray(image[y1:y2, x1:x2]) for x1, y1, x2, y2 in batch])
        parts += [_moved(result, window, image.shape[:2]) for result, window in zip(found, batch, strict=True)]
    return merged(parts, windows)


def _moved(result: Results, window: Window, shape: tuple[int, int]) -> Results:
    """A result of the window as one of the whole image."""
    x, y, *_ = window
    codes = result.run_lengths
    if codes is not None:
        codes = [run_length(coco_mask.decode(code).view(bool), shape, (y, x)) for code in codes]
    return Results(
        result.names, result.palette, shape, result.boxes + np.array([x, y, x, y], result.boxes.dtype),
        result.scores, result.labels, codes, times=result.times,
    )  # fmt: skip


def merged(parts: Sequence[Results], windows: Sequence[Window]) -> Results:
    """The results of overlapping windows of an image as one, each object once.

    Two detections of a class are one object if their boxes agree (IoU of at least `SAME`) within the region that both
    windows see; so a whole object and its part in the next window are one, and so are two parts of an object that is
    larger than the overlap. Pairs that agree most come first, and an object has one detection of a window at most, so
    that neighbours which one window tells apart stay apart. Of those that no edge cuts the one with the best score
    stands for the object; of an object that is cut everywhere boxes and masks are united.
    """
    first = parts[0]
    boxes = np.concatenate([part.boxes for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    codes = None if first.run_lengths is None else [code for part in parts for code in part.run_lengths]
    source = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    cut = np.concatenate(
        [_is_cut(part.boxes, window, first.shape) for part, window in zip(parts, windows, strict=True)]
    )
    kept = []
    for members in _objects(boxes, labels, source, windows):
        whole = [i for i in members if not cut[i]]
        best = max(whole or members, key=lambda i: scores[i])
        scores[best] = scores[members].max()
        if not whole and len(members) > 1:
            boxes[best] = *boxes[members, :2].min(0), *boxes[members, 2:].max(0)
            if codes is not None:
                codes[best] = coco_mask.merge([codes[i] for i in members])
        kept.append(best)
    kept = np.array(sorted(kept, key=lambda i: (-scores[i], i)), int)
    times = {stage: sum(part.times.get(stage, 0) for part in parts) for stage in first.times}
    return Results(
        first.names, first.palette, first.shape, boxes[kept], scores[kept], labels[kept],
        None if codes is None else [codes[i] for i in kept], times=times,
    )  # fmt: skip


def _is_cut(boxes: np.ndarray, window: Window, shape: tuple[int, int]) -> np.ndarray:
    """Which boxes touch an edge of the window that is none of the image."""
    x1, y1, x2, y2 = window
    height, width = shape
    near = np.stack([boxes[:, 0] < x1 + MARGIN, boxes[:, 1] < y1 + MARGIN, boxes[:, 2] > x2 - MARGIN,
                     boxes[:, 3] > y2 - MARGIN])  # fmt: skip
    inside = np.array([x1 > 0, y1 > 0, x2 < width, y2 < height])
    return (near & inside[:, None]).any(0)


def _objects(boxes: np.ndarray, labels: np.ndarray, source: np.ndarray, windows: Sequence[Window]) -> list[list[int]]:
    """The detections' indices, those of one object together."""
    pairs = sorted(_agreeing(boxes, labels, source, windows), reverse=True)
    group = {i: [i] for i in range(len(boxes))}
    for _, i, j in pairs:
        one, other = group[i], group[j]
        if not {source[k] for k in one} & {source[k] for k in other}:
            one += other
            group.update(dict.fromkeys(other, one))
    return list({id(members): members for members in group.values()}.values())


def _agreeing(boxes, labels, source, windows) -> Iterator[tuple[float, int, int]]:
    """(IoU, index, index) of the detections of two windows that may be one object."""
    indices = [np.flatnonzero(source == number) for number in range(len(windows))]
    for a, (ax1, ay1, ax2, ay2) in enumerate(windows):
        for b in range(a + 1, len(windows)):
            bx1, by1, bx2, by2 = windows[b]
            x1, y1, x2, y2 = max(ax1, bx1), max(ay1, by1), min(ax2, bx2), min(ay2, by2)
            if x1 >= x2 or y1 >= y2 or not len(indices[a]) or not len(indices[b]):
                continue
            seen = [
                clip_boxes_to_image(torch.from_numpy(boxes[i] - [x1, y1, x1, y1]), (y2 - y1, x2 - x1))
                for i in (indices[a], indices[b])
            ]
            agree = box_iou(*seen).nan_to_num().numpy()
            agree *= labels[indices[a]][:, None] == labels[indices[b]]
            for i, j in np.argwhere(agree >= SAME):
                yield float(agree[i, j]), int(indices[a][i]), int(indices[b][j])


def segment_in_tiles(
    model: nn.Module, image: torch.Tensor, sample, tile: tuple[int, int], overlap: float
) -> np.ndarray:
    """The label map of an image by mmseg's sliding window, in memory that grows with the image's width alone.

    Scores of windows that overlap are averaged, as mmseg does. It keeps those of all classes for the whole image; here
    its own function works on one row of windows at a time.

    Args:
        model: mmseg's EncoderDecoder.
        image: (3, H, W) uint8, as the test pipeline packs it without resizing.
        sample: its data sample.

    Returns:
        (H, W) uint8, or uint16 for more than 256 classes.
    """
    step = tuple(max(1, int(side * (1 - overlap))) for side in tile)
    rows = _starts(image.shape[1], tile[0], overlap)
    slider = copy.copy(model)  # shares the weights; what is set below is not seen by other threads
    slider.test_cfg = copy.copy(model.test_cfg)
    slider.test_cfg.update(mode='slide', crop_size=tile, stride=step)
    labels = np.zeros(image.shape[1:], np.uint8 if model.out_channels <= 256 else np.uint16)
    scores = counts = None
    for number, top in enumerate(rows):
        band = image[:, top : top + tile[0]]
        with torch.no_grad():
            data = model.data_preprocessor(dict(inputs=[band], data_samples=[sample]), False)
            sums = slider.slide_inference(data['inputs'], [sample.metainfo])[0, :, : band.shape[1], : band.shape[2]]
        ones = torch.ones(band.shape[1], device=sums.device)
        if scores is not None:  # the rows that this band shares with those before
            shared = len(counts)
            sums[:, :shared] += scores[:, :shared]
            ones[:shared] += counts
        bottom = rows[number + 1] if number + 1 < len(rows) else image.shape[1]
        done = bottom - top
        labels[top:bottom] = _labels(model, sums[:, :done] / ones[:done, None])
        scores, counts = sums[:, done:], ones[done:]
    return labels


def _labels(model: nn.Module, scores: torch.Tensor) -> np.ndarray:
    """As mmseg decides: the best of several classes, or above the threshold where one class has no rival."""
    if len(scores) > 1:
        return scores.argmax(0).cpu().numpy()
    return (scores[0].sigmoid() > model.decode_head.threshold).cpu().numpy()
