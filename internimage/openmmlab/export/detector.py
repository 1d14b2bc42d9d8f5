"""What exported detectors have in common: their outputs, and what mmdet's own prediction gives as such."""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from ...export import Exportable
from ...export.comparing import Agreement, Arrays, compare_detections


class Detector(Exportable):
    """`boxes` (N, K, 4), x1, y1, x2, y2 in pixels of the image, `scores` and `labels` (N, K), best first, where the
    model has them `masks` (N, K, H, W) of bool. Empty places have score 0."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.names = ['boxes', 'scores', 'labels']

    def reference(self, image: Tensor) -> Arrays:
        size = tuple(image.shape[2:])
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
        with torch.no_grad():
            samples = self.model.predict(image, [DetDataSample(metainfo=meta) for _ in image], rescale=True)
        found = [sample.pred_instances for sample in samples]
        keys = {'boxes': 'bboxes', 'scores': 'scores', 'labels': 'labels', 'masks': 'masks'}
        most = max(1, *map(len, found))
        return {name: np.stack([_padded(part[keys[name]].numpy(), most) for part in found]) for name in self.names}

    def compare(self, expected: Arrays, found: Arrays) -> Agreement:
        return compare_detections(expected, found)


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    return np.pad(array, [(0, length - len(array))] + [(0, 0)] * (array.ndim - 1))
