"""DINO on a composite backbone: the assisting backbone's features are detected on as well, in training alone."""

import torch
from mmdet.models.dense_heads import DINOHead
from mmengine.registry import MODELS
from torch import Tensor

from .dino import OfficialDINO


@MODELS.register_module()
class CBDINO(OfficialDINO):
    """DINO (arXiv 2203.03605) with the auxiliary supervision of CBNetV2 (arXiv 2107.00420, section 3.4).

    In training the transformer and the head see the features of the assisting backbone, too, as if they were more
    images of the batch (the first half of it); `CBDINOHead` weighs their losses. At inference this is a DINO on the
    lead's features. Needs a backbone and a neck that give pairs (`CBInternImage`, `CBChannelMapper`).
    """

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict:
        assistant, lead = self.extract_feat(batch_inputs)
        features = [torch.cat(pair) for pair in zip(assistant, lead, strict=True)]
        samples = [*batch_data_samples, *batch_data_samples]
        head_inputs = self.forward_transformer(features, samples)
        return self.bbox_head.loss(**head_inputs, batch_data_samples=samples)


@MODELS.register_module()
class CBDINOHead(DINOHead):
    """DINOHead for a batch whose first half are the features of the assisting backbone.

    Its losses are called ``cb0.*`` and weigh `cb_first_weight` (CBNetV2's lambda); those of the lead have DINO's names.
    Each half is normalised by its own number of objects.
    """

    def __init__(self, *args, cb_first_weight: float = 0.5, **kwargs):
        super().__init__(*args, **kwargs)
        self.cb_first_weight = cb_first_weight

    def loss_by_feat(
        self,
        cls_scores: Tensor,
        bbox_preds: Tensor,
        enc_cls_scores: Tensor,
        enc_bbox_preds: Tensor,
        batch_gt_instances: list,
        batch_img_metas: list,
        dn_meta: dict,
        batch_gt_instances_ignore: list | None = None,
    ) -> dict:
        """Arguments and losses as `DINOHead.loss_by_feat`; the batch has 2 N images."""
        images = len(batch_img_metas) // 2
        halves = []
        for half in (slice(None, images), slice(images, None)):
            ignored = batch_gt_instances_ignore and batch_gt_instances_ignore[half]
            halves.append(
                super().loss_by_feat(
                    cls_scores[:, half],
                    bbox_preds[:, half],
                    enc_cls_scores[half],
                    enc_bbox_preds[half],
                    batch_gt_instances[half],
                    batch_img_metas[half],
                    dn_meta,
                    ignored,
                )
            )
        assistant, lead = halves
        return {**{f'cb0.{name}': self.cb_first_weight * loss for name, loss in assistant.items()}, **lead}
