"""`internimage test --report`: per-class AP or IoU, confusion matrix, precision-recall curves, worst images, as a
page."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from torchvision.ops import box_iou

from . import pages
from .datasets.coco import read_as_stated
from .drawing import draw_instances, draw_label_map, mask_array, with_palette
from .images import read_image
from .large_images import run_length

SCORE = 0.3  # of the detections in the confusion matrix and in the drawings
OVERLAP = 0.5  # IoU from which a detection and an object are the same
WORST = 12
LARGE_MATRIX = 60  # classes above which a confusion matrix is not drawn but listed
MAX_DETECTIONS = (100, 300, 1000)  # those of mmdet's CocoMetric
DETECTION = """
<p class="quiet">{{ checkpoint }}, {{ images }} images.</p>
{{ table(measures, summary) }}
<h2>Classes</h2>
<p class="quiet">AP: mean over IoU 0.5 to 0.95; precision and recall at a score of {{ score }} and IoU 0.5; a
dash: no object.</p>
{{ table(columns, rows) }}
<h2>Precision and recall</h2>
{{ curves }}
<h2>Confusion matrix</h2>
<p class="quiet">Detections of a score above {{ score }}, each with the object that it overlaps most, from IoU 0.5 on.
Rows: the true class; the last row: detections where nothing is; the last column: objects that were missed.</p>
{{ matrix }}
{% if confused %}{{ table(['true class', 'found as', 'times'], confused) }}{% endif %}
<h2>Worst images</h2>
<p class="quiet">Most mistakes first: objects missed, and detections of nothing or of another class. Truth left,
detections right.</p>
{{ gallery(worst, true) }}
"""
SEGMENTATION = """
<p class="quiet">{{ checkpoint }}, {{ images }} images.</p>
{{ table(measures, summary) }}
<h2>Classes</h2>
<p class="quiet">In percent; a dash: no pixel of the class.</p>
{{ table(columns, rows) }}
{{ curves }}
<h2>Confusion matrix</h2>
<p class="quiet">Of the pixels of each true class (row) the part that was found as each class (column).</p>
{{ matrix }}
{% if confused %}{{ table(['true class', 'found as', 'part of the true class'], confused) }}{% endif %}
<h2>Worst images</h2>
<p class="quiet">The lowest mean IoU of the classes in the image first. Truth left, prediction right.</p>
{{ gallery(worst, true) }}
"""


class Report(BaseMetric):
    """Collects predictions and ground truth of a test, and writes the page at its end. It adds no metric."""

    def __init__(self, path, dataset, checkpoint: str):
        super().__init__()
        self.path, self.dataset, self.checkpoint = Path(path), dataset, checkpoint
        self.meta = with_palette(dataset.metainfo)
        self._by_file: dict[str, int] | None = None

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            if 'pred_sem_seg' in sample:
                self.results.append(self._label_maps(sample))
            else:
                self.results.append(self._detections(sample))

    def _label_maps(self, sample: dict) -> dict:
        """The confusion matrix of an image, (classes, classes), and its name; the label maps are small as PNG."""
        count = len(self.meta['classes'])
        predicted = sample['pred_sem_seg']['data'][0].cpu().numpy()
        truth = sample['gt_sem_seg']['data'][0].cpu().numpy()
        return dict(
            file=sample['img_path'],
            matrix=pixel_matrix(truth, predicted, count),
            predicted=_png(predicted),
            truth=_png(truth),
        )

    def _detections(self, sample: dict) -> dict:
        found = sample['pred_instances']
        order = found['scores'].argsort(descending=True)[: MAX_DETECTIONS[-1]].cpu()
        result = dict(
            file=sample['img_path'],
            shape=tuple(sample['ori_shape'][:2]),
            boxes=found['bboxes'].cpu().float().numpy()[order],
            scores=found['scores'].cpu().float().numpy()[order],
            labels=found['labels'].cpu().numpy()[order],
        )
        if 'masks' in found:
            result['masks'] = [_as_code(found['masks'][i]) for i in order.tolist()]
        info = self.dataset.get_data_info(self._index(sample))
        truth = info.get('instances') or []
        result['truth'] = dict(
            boxes=np.array([each['bbox'] for each in truth], np.float32).reshape(-1, 4),
            labels=np.array([each['bbox_label'] for each in truth], int),
            ignored=np.array([bool(each.get('ignore_flag')) for each in truth], bool),
        )
        if 'masks' in result and all(each.get('mask') for each in truth):
            result['truth']['masks'] = [_truth_code(each['mask'], result['shape']) for each in truth]
        return result

    def _index(self, sample: dict) -> int:
        if self._by_file is None:
            self._by_file = {self.dataset.get_data_info(i)['img_path']: i for i in range(len(self.dataset))}
        return self._by_file[sample['img_path']]

    def compute_metrics(self, results: list) -> dict:
        results = list({result['file']: result for result in results}.values())
        if results and 'matrix' in results[0]:
            text = segmentation_page(results, self.meta, self.checkpoint)
        else:
            text = detection_page(results, self.meta, self.checkpoint)
        pages.write_page(text, self.path)
        print(f'report: {self.path}')
        return {}


def _png(labels: np.ndarray) -> bytes:
    return cv2.imencode('.png', labels.astype(np.uint16))[1].tobytes()


def _from_png(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED).astype(np.int64)


def _as_code(mask) -> dict:
    return mask if isinstance(mask, dict) else run_length(mask_array(mask))


def _truth_code(mask, shape: tuple[int, int]) -> dict:
    if isinstance(mask, list):
        return coco_mask.merge(coco_mask.frPyObjects(mask, *shape))
    return coco_mask.frPyObjects(mask, *mask['size']) if isinstance(mask['counts'], list) else mask


# --- numbers


def pixel_matrix(truth: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """(count, count): pixels of each true class (row) that were predicted as each class; others than 0 to count - 1 in
    `truth` are left out."""
    counted = (truth >= 0) & (truth < count)
    codes = truth[counted].astype(np.int64) * count + predicted[counted]
    return np.bincount(codes, minlength=count * count).reshape(count, count)


def ious(matrix: np.ndarray) -> np.ndarray:
    """IoU of each class of a confusion matrix of pixels; NaN where neither truth nor prediction has it."""
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return np.divide(np.diag(matrix), union, out=np.full(len(matrix), np.nan), where=union > 0)


def match(result: dict, score: float = SCORE) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
    """Pairs (object, detection) of an image, one to one, those of the largest IoU first, from OVERLAP on.

    Returns:
        the pairs, the indices of the objects that were missed (crowds do not count), and of the detections of a score
        above `score` that are left over (those that lie in a crowd do not count).
    """
    truth = result['truth']
    kept = np.flatnonzero(result['scores'] > score)
    real = np.flatnonzero(~truth['ignored'])
    overlaps = box_iou(torch.from_numpy(truth['boxes'][real]), torch.from_numpy(result['boxes'][kept])).numpy()
    pairs, objects, detections = [], set(), set()
    for flat in np.argsort(-overlaps, axis=None, kind='stable'):
        row, column = np.unravel_index(flat, overlaps.shape)
        if overlaps[row, column] < OVERLAP:
            break
        if row not in objects and column not in detections:
            objects.add(row)
            detections.add(column)
            pairs.append((int(real[row]), int(kept[column])))
    missed = np.array([index for row, index in enumerate(real) if row not in objects], int)
    over = np.array([index for column, index in enumerate(kept) if column not in detections], int)
    crowds = truth['boxes'][truth['ignored']]
    if len(over) and len(crowds):
        boxes = result['boxes'][over]
        corners = (
            np.maximum(boxes[:, None, :2], crowds[None, :, :2]),
            np.minimum(boxes[:, None, 2:], crowds[None, :, 2:]),
        )
        inside = (corners[1] - corners[0]).clip(0).prod(2).max(1) / (boxes[:, 2:] - boxes[:, :2]).clip(1e-6).prod(1)
        over = over[inside < OVERLAP]
    return pairs, missed, over


def object_matrix(results: list[dict], count: int, score: float = SCORE) -> np.ndarray:
    """(count + 1, count + 1): objects of each true class (row) that were found as each class; the last column:
    missed; the last row: detections of nothing."""
    matrix = np.zeros((count + 1, count + 1), int)
    for result in results:
        pairs, missed, over = match(result, score)
        truth = result['truth']['labels']
        for true, found in pairs:
            matrix[truth[true], result['labels'][found]] += 1
        np.add.at(matrix, (truth[missed], count), 1)
        np.add.at(matrix, (count, result['labels'][over]), 1)
    return matrix


def coco_precision(results: list[dict], count: int, kind: str) -> np.ndarray:
    """COCO's precision, (10 IoUs 0.5 to 0.95, 101 recalls 0 to 1, classes); -1 where a class has no object. `kind`:
    'bbox' or 'segm'."""
    from faster_coco_eval import COCO, COCOeval_faster

    images, annotations, detections = [], [], []
    for number, result in enumerate(results, start=1):
        height, width = result['shape']
        images.append(dict(id=number, height=int(height), width=int(width)))
        truth = result['truth']
        for i, box in enumerate(truth['boxes'].tolist()):
            row = dict(id=len(annotations) + 1, image_id=number, category_id=int(truth['labels'][i]) + 1)
            row |= dict(
                bbox=_xywh(box), area=_area(box), iscrowd=int(truth['ignored'][i]), ignore=int(truth['ignored'][i])
            )
            if kind == 'segm':
                row['segmentation'] = _text(truth['masks'][i])
                row['area'] = float(coco_mask.area(truth['masks'][i]))
            annotations.append(row)
        for i, box in enumerate(result['boxes'].tolist()):
            row = dict(image_id=number, category_id=int(result['labels'][i]) + 1, score=float(result['scores'][i]))
            row |= dict(segmentation=_text(result['masks'][i])) if kind == 'segm' else dict(bbox=_xywh(box))
            detections.append(row)
    if not detections or not annotations:
        return np.full((10, 101, count), -1.0 if not annotations else 0.0)
    truth = COCO()
    truth.dataset = dict(
        images=images, annotations=annotations, categories=[dict(id=i + 1, name=str(i)) for i in range(count)]
    )
    truth.createIndex()
    evaluation = COCOeval_faster(truth, truth.loadRes(detections), kind, print_function=lambda *_: None)
    evaluation.params.maxDets = list(MAX_DETECTIONS)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval['precision'])[:, :, :, 0, -1]


def _xywh(box: list) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _area(box: list) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _text(code: dict) -> dict:
    counts = code['counts']
    return dict(size=list(code['size']), counts=counts.decode() if isinstance(counts, bytes) else counts)


def mean_precision(precision: np.ndarray) -> np.ndarray:
    """AP of each class from `coco_precision`, or from some of its IoUs; NaN where a class has no object."""
    precision = np.where(precision < 0, np.nan, precision)
    with np.errstate(invalid='ignore'):
        return precision.reshape(-1, precision.shape[-1]).mean(0)


# --- pages


def detection_page(results: list[dict], meta: dict, checkpoint: str) -> str:
    names = [str(name) for name in meta['classes']]
    count = len(names)
    with_masks = bool(results) and all('masks' in result and 'masks' in result['truth'] for result in results)
    precisions = {'box': coco_precision(results, count, 'bbox')}
    if with_masks:
        precisions['mask'] = coco_precision(results, count, 'segm')
    matrix = object_matrix(results, count)
    objects = matrix[:count].sum(1)
    per_class = [
        objects,
        _percent(_ratio(np.diag(matrix)[:count], matrix[:, :count].sum(0))),
        _percent(_ratio(np.diag(matrix)[:count], objects)),
    ]
    columns, summary = ['class', 'objects', 'precision', 'recall'], []
    for kind, precision in precisions.items():
        columns += [f'{kind} AP', f'{kind} AP50', f'{kind} AP75']
        values = [mean_precision(part) for part in (precision, precision[:1], precision[5:6])]
        per_class += [_percent(value) for value in values]
        summary.append((kind, *(_percent(np.array([_mean(value)]))[0] for value in values)))
    order = np.argsort(-objects, kind='stable')
    rows = [(names[i], *(_cell(column[i]) for column in per_class)) for i in order]
    return pages.render(
        DETECTION,
        'Evaluation of a detector',
        checkpoint=checkpoint,
        images=len(results),
        score=SCORE,
        measures=['', 'AP', 'AP50', 'AP75'],
        summary=summary,
        columns=columns,
        rows=rows,
        curves=_curves(precisions, names, objects),
        matrix=_matrix_figure(matrix, [*names, 'nothing'], [*names, 'missed']),
        confused=_confused(matrix, [*names, 'nothing'], [*names, 'missed']),
        worst=_worst_detections(results, meta),
    )


def segmentation_page(results: list[dict], meta: dict, checkpoint: str) -> str:
    names = [str(name) for name in meta['classes']]
    matrix = sum(result['matrix'] for result in results)
    every = ious(matrix)
    recall = _ratio(np.diag(matrix), matrix.sum(1))
    precision = _ratio(np.diag(matrix), matrix.sum(0))
    share = matrix.sum(1) / max(matrix.sum(), 1)
    columns = [_percent(share), _percent(every), _percent(recall), _percent(precision)]
    summary = [('', *_percent(np.array([_mean(every), _mean(recall), np.diag(matrix).sum() / max(matrix.sum(), 1)])))]
    parts = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    return pages.render(
        SEGMENTATION,
        'Evaluation of a segmentor',
        checkpoint=checkpoint,
        images=len(results),
        measures=['', 'mIoU', 'mean recall (mAcc)', 'pixels right (aAcc)'],
        summary=summary,
        columns=['class', 'pixels', 'IoU', 'recall (Acc)', 'precision'],
        rows=[(name, *(column[i] for column in columns)) for i, name in enumerate(names)],
        curves=_bars(every, names),
        matrix=_matrix_figure(parts, names),
        confused=_confused(parts, names, names, 0.02),
        worst=_worst_label_maps(results, meta),
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float('nan')


def _percent(values: np.ndarray) -> list[str]:
    return [f'{100 * value:.1f}' if np.isfinite(value) else '-' for value in values]


def _cell(value):
    return value if isinstance(value, str) else int(value)


def _curves(precisions: dict, names: list[str], objects: np.ndarray):
    """Precision over recall of the most frequent classes, and of all as a mean."""
    shown = [i for i in np.argsort(-objects, kind='stable') if objects[i]][:10]
    recalls = np.linspace(0, 1, 101)
    drawn, fields = pages.axes(5.2 * len(precisions), 3.8, ncols=len(precisions), squeeze=False)
    for field, (kind, precision) in zip(fields[0], precisions.items(), strict=True):
        at_half = np.where(precision[0] < 0, np.nan, precision[0])
        for i in shown:
            field.plot(recalls, at_half[:, i], lw=1, label=names[i])
        if shown:
            field.plot(recalls, np.nanmean(at_half[:, objects > 0], 1), 'k', lw=2, label='mean')
            field.legend(frameon=False, fontsize=7, loc='upper left', bbox_to_anchor=(1, 1))
        field.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02), title=f'{kind}, IoU 0.5')
    drawn.tight_layout()
    return pages.figure(drawn)


def _bars(values: np.ndarray, names: list[str]):
    drawn, field = pages.axes(7, 0.6 + 0.24 * len(names))
    order = np.argsort(np.nan_to_num(values, nan=-1))
    field.barh([names[i] for i in order], [np.nan_to_num(values[i]) for i in order])
    field.set(xlabel='IoU', xlim=(0, 1))
    return pages.figure(drawn)


def _matrix_figure(matrix: np.ndarray, names: list[str], columns: list[str] | None = None):
    if len(names) > LARGE_MATRIX:
        return 'Too many classes to draw; the most frequent confusions follow.'
    parts = matrix / np.maximum(matrix.sum(1, keepdims=True), 1e-9)
    side = 2.2 + 0.38 * len(names)
    drawn, field = pages.axes(side, side)
    field.imshow(parts, cmap='Blues', vmin=0, vmax=1)
    field.set_xticks(range(len(names)), columns or names, rotation=90, fontsize=8)
    field.set_yticks(range(len(names)), names, fontsize=8)
    whole = np.issubdtype(matrix.dtype, np.integer)
    for (row, column), value in np.ndenumerate(matrix):
        if value and (whole or value >= 0.005) and len(names) <= 25:
            color = 'white' if parts[row, column] > 0.5 else 'black'
            field.text(
                column,
                row,
                f'{value}' if whole else f'{100 * value:.0f}',
                ha='center',
                va='center',
                fontsize=7,
                color=color,
            )
    field.set(xlabel='found as', ylabel='true class')
    return pages.figure(drawn)


def _confused(matrix: np.ndarray, names: list[str], columns: list[str], least: float = 1) -> list[tuple]:
    """The largest entries beside the diagonal."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    cells = np.argsort(-wrong, axis=None, kind='stable')[:12]
    pairs = [np.unravel_index(cell, wrong.shape) for cell in cells]
    text = (
        (lambda value: int(value))
        if np.issubdtype(matrix.dtype, np.integer)
        else (lambda value: f'{100 * value:.1f} %')
    )
    return [
        (names[row], columns[column], text(wrong[row, column])) for row, column in pairs if wrong[row, column] >= least
    ]


def _worst_detections(results: list[dict], meta: dict) -> list[tuple]:
    ranked = []
    for result in results:
        pairs, missed, over = match(result)
        other = sum(result['truth']['labels'][true] != result['labels'][found] for true, found in pairs)
        if mistakes := len(missed) + len(over) + other:
            ranked.append((mistakes, len(missed), len(over), int(other), result))
    ranked.sort(key=lambda each: -each[0])
    shown = []
    for _, missed, over, other, result in ranked[:WORST]:
        halves = [_drawn(result['truth'], result, meta), _drawn(result, result, meta, SCORE)]
        caption = f'{os.path.basename(result["file"])}: {missed} missed, {over} of nothing, {other} of another class'
        shown.append((pages.picture(np.concatenate(halves, 1), 1060), caption))
    return shown


def _drawn(things: dict, result: dict, meta: dict, score: float | None = None) -> np.ndarray:
    image = read_image(result['file'])
    if image.shape[:2] != result['shape']:
        image = read_as_stated(result['file'], result['shape'])
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    found = InstanceData(bboxes=torch.from_numpy(things['boxes']), labels=torch.from_numpy(things['labels']))
    kept = range(len(things['labels']))
    if score is not None:
        found.scores = torch.from_numpy(things['scores'])
        kept = np.flatnonzero(things['scores'] > score).tolist()
    if 'masks' in things:
        found.masks = things['masks']
    return draw_instances(image, found, kept, meta['classes'], meta['palette'], alpha=0.5)


def _worst_label_maps(results: list[dict], meta: dict) -> list[tuple]:
    """By the mean IoU of the classes that the image has."""

    def score(result):
        there = result['matrix'].sum(1) > 0
        return _mean(ious(result['matrix'])[there]) if there.any() else 1.0

    shown = []
    for result in sorted(results, key=score)[:WORST]:
        image = cv2.cvtColor(read_image(result['file']), cv2.COLOR_BGR2RGB)
        halves = [
            draw_label_map(image, _from_png(result[key]), meta['classes'], meta['palette'])
            for key in ('truth', 'predicted')
        ]
        caption = f'{os.path.basename(result["file"])}: IoU {100 * score(result):.1f}'
        shown.append((pages.picture(np.concatenate(halves, 1), 1060), caption))
    return shown
