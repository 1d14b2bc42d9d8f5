"""Drawing detections and label maps. No state is kept between calls: any thread and any process may draw."""

from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from mmdet.visualization.palette import get_palette
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from .large_images import decode_box

BAND = 256  # rows that are blended at a time
LEAST_SIDE = 480  # smaller images are enlarged before they are drawn on


def with_palette(meta: dict) -> dict:
    """`meta` with a `palette` of one RGB color per class of `classes`: its own one, a list or the name of one that
    mmdet knows, or else random colors, the same in every run."""
    count, palette = len(meta['classes']), meta.get('palette')
    try:
        if isinstance(palette, str):
            palette = get_palette(palette, count) if palette in ('coco', 'citys', 'voc') else None
        palette = np.asarray(palette, float)[:count]
        usable = palette.shape == (count, 3) and ((palette >= 0) & (palette <= 255)).all()
    except (AssertionError, IndexError, TypeError, ValueError):  # too short, or no colors
        usable = False
    if not usable:
        palette = np.random.RandomState(42).randint(0, 256, (count, 3))
    return {**meta, 'palette': [tuple(map(int, color)) for color in palette]}


def draw_sample(picture: np.ndarray, sample: BaseDataElement, meta: dict, score_thr=0.3, factor=1) -> np.ndarray:
    """The prediction of a data sample of mmdet or mmseg on a copy of `picture`, (H, W, 3) uint8 RGB.

    Args:
        meta: `classes` and `palette` (one RGB color per class).
        score_thr: boxes of a score of at most this are left out.
        factor: the picture is the image enlarged by this whole factor, and the sample is of the image.
    """
    if 'pred_sem_seg' in sample:
        return draw_label_map(picture, _label_map(sample.pred_sem_seg, factor), _names(meta), meta['palette'])
    found = sample.pred_instances
    kept = (found.scores > score_thr).nonzero().flatten().tolist()
    return draw_instances(picture, found, kept, _names(meta), meta['palette'], factor=factor)


def draw_truth(picture: np.ndarray, sample: BaseDataElement, meta: dict, factor: int = 1) -> np.ndarray | None:
    """The ground truth of a data sample in the same way, or None where the sample has none."""
    if 'gt_sem_seg' in sample:
        return draw_label_map(picture, _label_map(sample.gt_sem_seg, factor), _names(meta), meta['palette'])
    if 'gt_instances' in sample:
        kept = range(len(sample.gt_instances))
        return draw_instances(picture, sample.gt_instances, kept, _names(meta), meta['palette'], factor=factor)
    return None


def draw_instances(
    picture: np.ndarray, found: InstanceData, kept, classes, palette, factor: int = 1, alpha: float = 0.8
) -> np.ndarray:
    """The boxes with the indices `kept`, and their masks where there are any, in any form `mask_array` reads."""
    picture = picture.copy()
    labels = [int(found.labels[i]) for i in kept]
    if 'masks' in found:
        # The colors of two objects of a class differ a little, always in the same way.
        shades = np.random.RandomState(0).uniform(-64, 64, (len(labels), 3))
        masks = found.masks.masks if hasattr(found.masks, 'masks') else found.masks  # mmdet's BitmapMasks
        for i, label, shade in zip(kept, labels, shades, strict=True):
            color = np.clip(np.asarray(palette[label]) + shade, 0, 255)
            _paint(picture, *_cropped(masks[i]), factor, color, alpha)
    boxes = get_box_tensor(found.bboxes).detach().cpu().float().numpy() * factor
    shown = [k for k, i in enumerate(kept) if np.isfinite(boxes[i]).all() and (boxes[i, 2:] >= boxes[i, :2]).all()]
    if not shown:
        return picture
    sides = np.sqrt(np.prod(boxes[[kept[k] for k in shown], 2:] - boxes[[kept[k] for k in shown], :2], axis=1))
    size = max(11, min(_font_size(picture), round(float(np.median(sides)) / 6)))  # signs are smaller than small objects
    width = max(1, size // 6)
    corners = np.nan_to_num(boxes).clip(-1, 2 * max(picture.shape)).astype(int)  # numbers that OpenCV takes
    for k in shown:
        x1, y1, x2, y2 = corners[kept[k]].tolist()
        cv2.rectangle(picture, (x1, y1), (x2, y2), tuple(map(int, palette[labels[k]])), width)
    font = ImageFont.truetype(_font_file(), size)
    for k in shown:
        name = classes[labels[k]]
        if 'scores' in found:
            name += f': {100 * float(found.scores[kept[k]]):.1f}'
        x, y, *_ = corners[kept[k]].tolist()
        _paste(picture, _sign(name, font, 'black'), x + width, y + width)
    return picture


def draw_label_map(picture: np.ndarray, labels: np.ndarray, classes, palette, alpha: float = 0.5) -> np.ndarray:
    """`labels` (H, W) in the colors of their classes over the picture, the name of each class in its widest row.

    A label that is not a class index (255: to be ignored) is drawn black and without a name.
    """
    count = len(classes)
    colors = np.zeros((count + 1, 3), np.uint8)
    colors[:count] = palette[:count]
    drawn = np.empty_like(picture)
    widest = np.zeros((count, 2), int)  # of each class: its pixels in the row where it has most, that row
    for top in range(0, len(labels), BAND):
        band = slice(top, top + BAND)
        rows = np.where((labels[band] >= 0) & (labels[band] < count), labels[band], count)
        drawn[band] = cv2.addWeighted(picture[band], 1 - alpha, colors[rows], alpha, 0)
        places = rows.astype(np.int64) + (count + 1) * np.arange(len(rows))[:, None]
        pixels = np.bincount(places.ravel(), minlength=len(rows) * (count + 1)).reshape(len(rows), -1)[:, :count]
        most = pixels.max(0)
        wider = most > widest[:, 0]
        widest[wider, 0], widest[wider, 1] = most[wider], top + pixels.argmax(0)[wider]
    font = ImageFont.truetype(_font_file(), _font_size(picture))
    for label in np.flatnonzero(widest[:, 0])[::-1]:
        row = widest[label, 1]
        columns = np.flatnonzero(labels[row] == label)
        sign = _sign(classes[label], font, tuple(map(int, colors[label])), stroke=1)
        x = max(0, min(int(columns[len(columns) // 2]), picture.shape[1] - sign.shape[1]))
        y = max(0, min(int(row), picture.shape[0] - sign.shape[0]))
        _paste(drawn, sign, x, y)
    return drawn


def _sign(text: str, font, background, stroke: int = 0) -> np.ndarray:
    """White text in a black frame, (h, w, 3) uint8."""
    left, top, right, bottom = map(round, font.getbbox(text))
    image = Image.new('RGB', (right - left + 5, bottom - top + 5), background)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, image.width - 1, image.height - 1), outline='black')
    pen.text((2 - left, 2 - top), text, 'white', font, stroke_width=stroke, stroke_fill='black')
    return np.asarray(image)


def _paste(picture: np.ndarray, patch: np.ndarray, x: int, y: int) -> None:
    """Puts the patch into the picture, in place, its corner at (x, y); what lies outside is left out."""
    x, y = max(x, 0), max(y, 0)
    space = picture[y : y + patch.shape[0], x : x + patch.shape[1]]
    space[:] = patch[: space.shape[0], : space.shape[1]]


def mask_array(mask) -> np.ndarray:
    """One mask, a tensor, an array or a COCO run-length code, as (H, W) bool."""
    if isinstance(mask, dict):
        return coco_mask.decode(mask).view(bool)
    return np.asarray(mask.cpu() if isinstance(mask, torch.Tensor) else mask).astype(bool, copy=False)


def enlarged(array: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel `factor` times in either direction."""
    return array if factor == 1 else array.repeat(factor, 0).repeat(factor, 1)


def enlarged_picture(image: np.ndarray, least_side: int) -> tuple[np.ndarray, int]:
    """An image (H, W, 3) uint8 BGR in RGB, enlarged by the least whole factor after which its longer side has
    `least_side` pixels; and that factor."""
    picture = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    factor = -(-least_side // max(picture.shape[:2])) or 1
    if factor > 1:
        size = picture.shape[1] * factor, picture.shape[0] * factor
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    return picture, factor


def _cropped(mask) -> tuple[np.ndarray, int, int]:
    """A mask in any form `mask_array` takes: the box around it, (h, w) uint8, and the row and column of its corner."""
    if isinstance(mask, dict):
        return decode_box(mask)
    mask = mask_array(mask)
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return np.zeros((0, 0), np.uint8), 0, 0
    top, bottom = rows[0], rows[-1] + 1
    columns = np.flatnonzero(mask[top:bottom].any(0))
    left, right = columns[0], columns[-1] + 1
    return np.ascontiguousarray(mask[top:bottom, left:right]).view(np.uint8), top, left


def _paint(picture: np.ndarray, mask, top: int, left: int, factor: int, color: np.ndarray, alpha: float) -> None:
    """Blends the color into the picture where the mask is, in place, and outlines it in white.

    The mask (h, w) uint8 has its corner at (`top`, `left`) of the image of which the picture is an enlargement.
    """
    if not mask.size:
        return
    mask = enlarged(mask, factor)
    box = slice(top * factor, top * factor + mask.shape[0]), slice(left * factor, left * factor + mask.shape[1])
    part = np.ascontiguousarray(picture[box])
    table = (1 - alpha) * np.arange(256)[:, None] + alpha * color
    cv2.copyTo(cv2.LUT(part, table.round().astype(np.uint8)[None]), mask, part)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(part, contours, -1, (255, 255, 255), max(1, _font_size(picture) // 12))
    picture[box] = part


def _label_map(pixels, factor: int) -> np.ndarray:
    labels = pixels.data[0]
    return enlarged(labels.cpu().numpy() if isinstance(labels, torch.Tensor) else labels, factor).astype(
        np.int64, copy=False
    )


def _names(meta: dict) -> list[str]:
    return [str(name) for name in meta['classes']]


def _font_size(picture: np.ndarray) -> int:
    return max(11, round((picture.shape[0] * picture.shape[1]) ** 0.5 / 36))


@cache
def _font_file() -> str:
    return str(Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'))
