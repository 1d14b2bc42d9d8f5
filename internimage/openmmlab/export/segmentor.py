"""mmseg's segmentors as one graph."""

import torch
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ...export import Exportable
from ...export.comparing import Arrays
from .transformers import FORWARDS


class Size(tuple):
    """(height, width), symbolic. mmengine's samples copy what they are given deeply, which symbols do not survive."""

    def __deepcopy__(self, memo: dict) -> 'Size':
        return self


class Segmentor(Exportable):
    """`logits` (N, classes, H, W), those that the head predicts, and `label_map` (N, H, W), the best class of each.

    The network sees the whole image, also where the config's test mode is sliding windows.
    """

    names = ['logits', 'label_map']
    forwards = FORWARDS

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        size = Size(image.shape[2:])
        logits = self.model.encode_decode(image, [dict(img_shape=size, ori_shape=size, pad_shape=size)])
        if logits.shape[1] > 1:
            label_map = logits.argmax(1)
        else:
            label_map = (logits[:, 0].sigmoid() > self.model.decode_head.threshold).long()
        return dict(logits=logits, label_map=label_map)

    def reference(self, image: Tensor) -> Arrays:
        size = tuple(image.shape[2:])
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
        with torch.no_grad():
            logits = self.model.encode_decode(image, [meta for _ in image])
            samples = self.model.postprocess_result(logits, [SegDataSample(metainfo=meta) for _ in image])
        return dict(
            logits=logits.numpy(), label_map=torch.cat([sample.pred_sem_seg.data for sample in samples]).numpy()
        )
