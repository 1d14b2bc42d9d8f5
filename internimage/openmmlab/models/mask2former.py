"""Mask2Former for semantic segmentation, with the official order of its last steps."""

import torch
from mmengine.registry import MODELS
from mmseg.models.decode_heads import Mask2FormerHead
from mmseg.models.utils import resize
from mmseg.structures import SegDataSample
from torch import Tensor


@MODELS.register_module()
class OfficialMask2FormerHead(Mask2FormerHead):
    """mmseg's head (arXiv 2112.01527), the same arguments, which predicts as the official InternImage code does.

    Official: masks become probabilities and are summed up to classes at stride 4, and the class maps are enlarged.
    mmseg enlarges the masks first, at many times the memory, and gets other scores near the edges.
    """

    def predict(self, x: tuple[Tensor, ...], batch_img_metas: list[dict], test_cfg: dict) -> Tensor:
        """Features of strides 4 to 32 -> class scores Tensor[N, classes, H, W] (sums over the queries, not logits)."""
        samples = [SegDataSample(metainfo=meta) for meta in batch_img_metas]
        all_classes, all_masks = self(x, samples)
        classes = all_classes[-1].softmax(-1)[..., :-1]  # the last one is "no object"
        scores = torch.einsum('bqc,bqhw->bchw', classes, all_masks[-1].sigmoid())
        meta = batch_img_metas[0]
        # In sliding windows mmseg gives the window as a torch.Size in `img_shape`, and pad_shape is the whole image.
        window = isinstance(meta['img_shape'], torch.Size) or 'pad_shape' not in meta
        size = meta['img_shape' if window else 'pad_shape'][:2]
        return resize(scores, size, mode='bilinear', align_corners=self.align_corners)
