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
from torchvision.utils import draw_bounding_boxes

BAND = 256  # rows that are blended at a time


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


def draw_truth(picture: np.ndarray, sample: BaseDataElement, meta: dict) -> np.ndarray | None:
    """The ground truth of a data sample in the same way, or None where the sample has none."""
    if 'gt_sem_seg' in sample:
        return draw_label_map(picture, _label_map(sample.gt_sem_seg, 1), _names(meta), meta['palette'])
    if 'gt_instances' in sample:
        return draw_instances(
            picture, sample.gt_instances, range(len(sample.gt_instances)), _names(meta), meta['palette']
        )
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
            _paint(picture, enlarged(mask_array(masks[i]), factor), color, alpha)
    boxes = get_box_tensor(found.bboxes).detach().cpu().float() * factor
    shown = [k for k, i in enumerate(kept) if boxes[i].isfinite().all() and (boxes[i, 2:] >= boxes[i, :2]).all()]
    if not shown:
        return picture
    kept = [kept[k] for k in shown]
    names = [classes[labels[k]] for k in shown]
    if 'scores' in found:
        names = [f'{name}: {100 * float(found.scores[i]):.1f}' for i, name in zip(kept, names, strict=True)]
    drawn = draw_bounding_boxes(
        torch.from_numpy(picture).permute(2, 0, 1),
        boxes[kept],
        names,
        colors=[tuple(palette[labels[k]]) for k in shown],
        width=max(1, _font_size(picture) // 6),
        font=_font_file(),
        font_size=_font_size(picture),
        label_colors='white',
        label_background_colors='black',
        fill_labels=True,
    )
    return np.ascontiguousarray(drawn.permute(1, 2, 0).numpy())


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
        rows = np.where(
            (labels[top : top + BAND] >= 0) & (labels[top : top + BAND] < count), labels[top : top + BAND], count
        )
        drawn[top : top + BAND] = (1 - alpha) * picture[top : top + BAND] + alpha * colors[rows]
        for row, line in enumerate(rows, top):
            pixels = np.bincount(line, minlength=count)[:count]
            wider = pixels > widest[:, 0]
            widest[wider, 0], widest[wider, 1] = pixels[wider], row
    image = Image.fromarray(drawn)
    pen, font = ImageDraw.Draw(image), ImageFont.truetype(_font_file(), _font_size(picture))
    for label in np.flatnonzero(widest[:, 0])[::-1]:
        row = widest[label, 1]
        columns = np.flatnonzero(labels[row] == label)
        left, top, right, bottom = pen.textbbox((0, 0), classes[label], font)
        x = max(0, min(int(columns[len(columns) // 2]), picture.shape[1] - (right - left) - 5))
        y = max(0, min(int(row), picture.shape[0] - (bottom - top) - 5))
        outline = (x, y, x + right - left + 4, y + bottom - top + 4)
        pen.rectangle(outline, fill=tuple(map(int, colors[label])), outline='black')
        pen.text((x + 2 - left, y + 2 - top), classes[label], 'white', font, stroke_width=1, stroke_fill='black')
    return np.array(image)


def mask_array(mask) -> np.ndarray:
    """One mask, a tensor, an array or a COCO run-length code, as (H, W) bool."""
    if isinstance(mask, dict):
        return coco_mask.decode(mask).view(bool)
    return np.asarray(mask.cpu() if isinstance(mask, torch.Tensor) else mask).astype(bool, copy=False)


def enlarged(array: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel `factor` times in either direction."""
    return array if factor == 1 else array.repeat(factor, 0).repeat(factor, 1)


def _paint(picture: np.ndarray, mask: np.ndarray, color: np.ndarray, alpha: float) -> None:
    """Blends the color into the picture where the mask is, in place, and outlines it in white."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return
    top, bottom = rows[0], rows[-1] + 1
    columns = np.flatnonzero(mask[top:bottom].any(0))
    box = slice(top, bottom), slice(columns[0], columns[-1] + 1)
    mask = np.ascontiguousarray(mask[box])
    part = picture[box]
    part[mask] = (1 - alpha) * part[mask] + alpha * color
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outlined = np.ascontiguousarray(part)
    cv2.drawContours(outlined, contours, -1, (255, 255, 255), max(1, _font_size(picture) // 12))
    picture[box] = outlined


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
