"""What a model found in one image, as plain arrays, and its ways into other formats."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData
from pycocotools import mask as coco_mask

from .drawing import LEAST_SIDE, draw_instances, draw_label_map, enlarged, enlarged_picture, mask_array
from .images import read_image, write_bytes, write_image
from .large_images import run_length

__all__ = ['Results', 'to_coco']


class Results:
    """What a model found in one image.

    `results[key]` are the detections that `key` picks (an index, a slice, an array of indices or of bools), all their
    parts with them: `results[results.scores > 0.5]`. `len(results)` is their number, 0 for a segmentor.

    Attributes:
        boxes: (n, 4) float, x1, y1, x2, y2 in pixels of the upright image, best score first.
        scores: (n,) float, 0 to 1.
        labels: (n,) int64, indices into `names`.
        names: the names of all classes; `names[labels[0]]` is that of the best detection.
        class_names: (n,) the names of the detections' classes.
        masks: (n, H, W) bool, or None where the model has no masks. Decoded from `run_lengths` at every access.
        run_lengths: the masks as COCO's run-length codes, a thousandth of their memory, or None.
        label_map: of a segmentor, (H, W) uint8 or uint16: the class of each pixel; else None.
        shape: (H, W) of the image.
        image: (H, W, 3) uint8, BGR. Where it came from a file and is not kept, it is read again.
        path: the file or address of the image, or None.
        frame: the number of the frame, from 0, where it is one of a video; else None.
        times: seconds per stage: `read`, `preprocess`, `predict` (network and its post-processing) and `convert` (to
            plain arrays). In a batch, each image has its share.
    """

    def __init__(
        self,
        names: Sequence[str],
        palette: Sequence[tuple[int, int, int]],
        shape: tuple[int, int],
        boxes: np.ndarray | None = None,
        scores: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        run_lengths: list[dict] | None = None,
        label_map: np.ndarray | None = None,
        image: np.ndarray | None = None,
        path: str | None = None,
        frame: int | None = None,
        times: dict[str, float] | None = None,
    ):
        self.names, self.palette, self.shape = tuple(map(str, names)), palette, tuple(shape)
        self.boxes = np.zeros((0, 4), np.float32) if boxes is None else boxes
        self.scores = np.zeros(0, np.float32) if scores is None else scores
        self.labels = np.zeros(0, np.int64) if labels is None else labels
        self.run_lengths, self.label_map = run_lengths, label_map
        self.path, self.frame, self.times = path, frame, dict(times or {})
        self._image = image

    @classmethod
    def from_sample(cls, sample: BaseDataElement | dict, meta: dict, shape: tuple[int, int] | None = None, **rest):
        """From a data sample of mmdet or mmseg, or its `to_dict()`.

        Args:
            meta: `classes` and, for drawing, `palette`.
            shape: (H, W) of the image; default: what the sample says of it.
            rest: further arguments of the class.
        """
        sample = sample.to_dict() if isinstance(sample, BaseDataElement) else sample
        names = meta['classes']
        common = dict(names=names, palette=meta.get('palette'), **rest)
        if 'pred_sem_seg' in sample:
            labels = sample['pred_sem_seg']['data'][0]
            labels = labels.cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
            kind = np.uint8 if len(names) <= 256 else np.uint16
            return cls(shape=labels.shape, label_map=labels.astype(kind), **common)
        found = sample['pred_instances']
        boxes, scores, labels = (found[key].detach().cpu() for key in ('bboxes', 'scores', 'labels'))
        boxes, scores = (x.float().numpy() if x.dtype != torch.float64 else x.numpy() for x in (boxes, scores))
        order = np.argsort(-scores, kind='stable')
        codes = None
        if 'masks' in found:
            codes = [
                mask if isinstance(mask, dict) else run_length(mask_array(mask))
                for mask in (found['masks'][i] for i in order)
            ]
        shape = shape or sample.get('ori_shape') or (codes[0]['size'] if codes else (0, 0))
        return cls(
            shape=shape, boxes=boxes[order], scores=scores[order], labels=labels.numpy()[order], run_lengths=codes,
            **common,
        )  # fmt: skip

    @property
    def image(self) -> np.ndarray:
        if self._image is not None:
            return self._image
        if self.path is None or self.frame is not None:
            raise ValueError('the image of this result was not kept')
        return read_image(self.path)

    def forget_image(self) -> None:
        """Where the image is a file, it is not kept in memory, but read again when it is needed."""
        if self.path is not None and self.frame is None:
            self._image = None

    @property
    def masks(self) -> np.ndarray | None:
        if self.run_lengths is None:
            return None
        masks = np.zeros((len(self), *self.shape), bool)
        for mask, code in zip(masks, self.run_lengths, strict=True):
            mask[:] = coco_mask.decode(code)
        return masks

    @property
    def class_names(self) -> np.ndarray:
        return np.array([self.names[label] for label in self.labels], dtype=str)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, key) -> 'Results':
        if self.label_map is not None:
            raise TypeError('the result of a segmentor has no detections to pick: use label_map')
        picked = np.atleast_1d(np.arange(len(self))[key])
        codes = None if self.run_lengths is None else [self.run_lengths[i] for i in picked]
        return Results(
            self.names, self.palette, self.shape, self.boxes[picked], self.scores[picked], self.labels[picked], codes,
            image=self._image, path=self.path, frame=self.frame, times=self.times,
        )  # fmt: skip

    def __iter__(self) -> Iterator['Results']:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        where = f'{self.path or "image"}{"" if self.frame is None else f", frame {self.frame}"}'
        if self.label_map is not None:
            return f'<Results of {where}: {", ".join(self.names[label] for label in self.found_labels())}>'
        counts = np.bincount(self.labels, minlength=len(self.names))
        found = ', '.join(f'{counts[label]} {self.names[label]}' for label in np.flatnonzero(counts))
        return f'<Results of {where}: {found or "nothing"}>'

    def found_labels(self) -> list[int]:
        """The classes that occur in the label map, in ascending order."""
        return np.flatnonzero(np.bincount(self.label_map.ravel())).tolist()

    # Pictures and files

    def plot(self, score_thr: float = 0.3, least_side: int = LEAST_SIDE) -> np.ndarray:
        """The image with boxes and masks, or the label map, on it: (H, W, 3) uint8, RGB.

        Args:
            score_thr: boxes of a score of at most this are left out.
            least_side: an image whose longer side has fewer pixels is enlarged by a whole factor first, so that the
                labels do not cover it (0: never).
        """
        picture, factor = enlarged_picture(self.image, least_side)
        if self.label_map is not None:
            return draw_label_map(picture, enlarged(self.label_map, factor), self.names, self.palette)
        found = InstanceData(bboxes=torch.from_numpy(self.boxes), scores=self.scores, labels=self.labels)
        if self.run_lengths is not None:
            found.masks = self.run_lengths
        return draw_instances(
            picture, found, np.flatnonzero(self.scores > score_thr).tolist(), self.names, self.palette, factor=factor
        )

    def save(self, path, score_thr: float = 0.3) -> Path:
        """Writes one file, the whole of it or none; its suffix says what:

        an image format: the drawing of `plot`; `.json`: LabelMe's format; `.txt`: YOLO's. Boxes of a score of at most
        `score_thr` are left out.
        """
        path = Path(path)
        if path.suffix not in ('.json', '.txt'):
            write_image(cv2.cvtColor(self.plot(score_thr), cv2.COLOR_RGB2BGR), path)
            return path
        kept = self.above(score_thr)
        text = json.dumps(kept.to_labelme()) if path.suffix == '.json' else kept.to_yolo()
        write_bytes(text.encode(), path)
        return path

    def above(self, score_thr: float) -> 'Results':
        """The detections of a score above `score_thr`; of a segmentor, all."""
        return self if self.label_map is not None else self[self.scores > score_thr]

    # Other formats

    def objects(self) -> Iterator[tuple[int, float | None, np.ndarray, dict | None]]:
        """(label, score, box, run-length code) of each detection; of a segmentor, of the region of each class, without
        a score."""
        if self.label_map is None:
            codes = self.run_lengths or [None] * len(self)
            for label, score, box, code in zip(self.labels, self.scores, self.boxes, codes, strict=True):
                yield int(label), float(score), box, code
            return
        for label in self.found_labels():
            code = run_length(self.label_map == label)
            x, y, width, height = coco_mask.toBbox(code)
            yield label, None, np.array([x, y, x + width, y + height]), code

    def records(self) -> list[dict]:
        """One dict per detection, ready for JSON: `label`, `class`, `score`, `bbox` (x1, y1, x2, y2) and `mask` (COCO's
        run-length code) where there are masks; of a segmentor, one per class: `label`, `class`, `mask`."""
        records = []
        for label, score, box, code in self.objects():
            record = {'label': label, 'class': self.names[label]}
            if score is not None:
                record |= {'score': round(score, 5), 'bbox': [round(value, 2) for value in box.tolist()]}
            if code is not None:
                record['mask'] = json_mask(code)
            records.append(record)
        return records

    def to_coco(self, image_id: int = 1, first_id: int = 1, category_ids: Sequence[int] | None = None) -> dict:
        """COCO's format: a dict with `images`, `annotations` and `categories`.

        The annotations have `score`, too: their list is what `pycocotools.COCO.loadRes` takes.

        Args:
            image_id: id of the image.
            first_id: id of the first annotation.
            category_ids: the id of each class; default: its index + 1.
        """
        ids = list(range(1, len(self.names) + 1)) if category_ids is None else list(category_ids)
        annotations = []
        for number, (label, score, box, code) in enumerate(self.objects(), first_id):
            x1, y1, x2, y2 = (float(value) for value in box)
            annotation = dict(id=number, image_id=image_id, category_id=ids[label], iscrowd=0)
            annotation |= dict(bbox=[round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)], area=(x2 - x1) * (y2 - y1))
            if code is not None:
                annotation |= dict(segmentation=json_mask(code), area=float(coco_mask.area(code)))
            if score is not None:
                annotation['score'] = round(score, 5)
            annotations.append(annotation)
        image = dict(id=image_id, file_name=self._file_name(), height=int(self.shape[0]), width=int(self.shape[1]))
        categories = [dict(id=id_, name=name) for id_, name in zip(ids, self.names, strict=True)]
        return dict(images=[image], annotations=annotations, categories=categories)

    def to_labelme(self) -> dict:
        """LabelMe's format. A mask becomes polygons, its parts one group; its holes are filled."""
        shapes = []
        for number, (label, score, box, code) in enumerate(self.objects()):
            if code is None:
                parts, kind = [box.reshape(2, 2)], 'rectangle'
            else:
                parts, kind = _polygons(code), 'polygon'
            for part in parts:
                shape = dict(label=self.names[label], points=[[round(float(v), 2) for v in point] for point in part])
                shape |= dict(group_id=number if len(parts) > 1 else None, shape_type=kind, flags={})
                shape['description'] = '' if score is None else f'score {score:.3f}'
                shapes.append(shape)
        height, width = (int(side) for side in self.shape)
        size = dict(imagePath=self._file_name(), imageData=None, imageHeight=height, imageWidth=width)
        return dict(version='5.5.0', flags={}, shapes=shapes, **size)

    def to_yolo(self, scores: bool = False) -> str:
        """YOLO's format, a line per object: `label x y width height` of the box's centre and size, or, where there are
        masks, `label x1 y1 x2 y2 ...` of the polygon around the largest part; in parts of the image's width and height.

        Args:
            scores: add the score at the end of each line.
        """
        height, width = self.shape
        lines = []
        for label, score, box, code in self.objects():
            if code is None:
                x1, y1, x2, y2 = box
                values = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]) / [width, height, width, height]
            else:
                parts = _polygons(code)
                if not parts:
                    continue
                values = (max(parts, key=lambda part: cv2.contourArea(part)) / [width, height]).ravel()
            words = [str(label), *(f'{value:.6f}' for value in np.clip(values, 0, 1))]
            lines.append(' '.join(words + ([f'{score:.5f}'] if scores and score is not None else [])))
        return ''.join(f'{line}\n' for line in lines)

    def to_supervision(self):
        """supervision's `Detections`; of a segmentor, one per class that occurs, without a score.

        Raises:
            ImportError: supervision is not installed.
        """
        from supervision import Detections

        found = list(self.objects())
        labels = np.array([label for label, *_ in found], int)
        masks = [coco_mask.decode(code).astype(bool) for *_, code in found if code is not None]
        return Detections(
            xyxy=np.array([box for _, _, box, _ in found], np.float32).reshape(-1, 4),
            mask=np.stack(masks) if masks else None,
            confidence=None if self.label_map is not None else self.scores.astype(np.float32),
            class_id=labels,
            data={'class_name': np.array([self.names[label] for label in labels], dtype=str)},
        )

    def _file_name(self) -> str:
        name = Path(self.path).name if self.path else 'image'
        return name if self.frame is None else f'{name}#{self.frame}'


def to_coco(results: Iterable[Results], category_ids: Sequence[int] | None = None) -> dict:
    """The results of several images as one dict of COCO's format, see `Results.to_coco`; ids count from 1."""
    together = dict(images=[], annotations=[], categories=[])
    for image_id, result in enumerate(results, 1):
        one = result.to_coco(image_id, len(together['annotations']) + 1, category_ids)
        together['images'] += one['images']
        together['annotations'] += one['annotations']
        together['categories'] = one['categories']
    return together


def json_mask(code: dict) -> dict:
    """A run-length code of pycocotools with text where that has bytes."""
    counts = code['counts']
    return {'size': list(code['size']), 'counts': counts.decode() if isinstance(counts, bytes) else counts}


def _polygons(code: dict) -> list[np.ndarray]:
    """The outlines of a mask's parts, each (n, 2) int32, x and y of n >= 3 pixels."""
    outlines, _ = cv2.findContours(coco_mask.decode(code), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [outline[:, 0] for outline in outlines if len(outline) >= 3]
