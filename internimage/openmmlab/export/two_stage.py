"""Two-stage detectors as one graph: Faster, Mask and Cascade R-CNN, R-FCN, with any of the RoI pools.

What mmdet predicts image by image with lists of varying length is here a batch of tensors of fixed length: of every
step as many boxes as its config allows, those that do not exist with a score below all others. Results are mmdet's.
"""

import torch
import torch.nn.functional as F
import torchvision
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn

from ...export import ExportError
from ..models import DeformRoIExtractor
from .detector import Detector

ABSENT = -1.0  # the score of a box that does not exist; those of others are at least 0
NOT_ABSENT = -0.5


class TwoStage(Detector):
    """One of mmdet's two-stage detectors."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        head = model.roi_head
        self.bbox_heads = list(head.bbox_head) if isinstance(head, CascadeRoIHead) else [head.bbox_head]
        if head.with_mask:
            self.names = [*self.names, 'masks']
            if model.test_cfg.rcnn.mask_thr_binary < 0:
                raise ExportError('test_cfg.rcnn.mask_thr_binary must be at least 0')
        for part in ('rpn', 'rcnn'):
            cfg = model.test_cfg[part]
            if cfg.nms.get('type', 'nms') != 'nms' or cfg.nms.get('class_agnostic') or 'max_num' in cfg.nms:
                raise ExportError(f'test_cfg.{part}.nms must be plain non-maximum suppression, got {dict(cfg.nms)}')
            if cfg.max_per_img <= 0:
                raise ExportError(f'test_cfg.{part}.max_per_img must be a number of boxes, got {cfg.max_per_img}')

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        size = image.shape[2:]
        features = self.model.extract_feat(image)
        boxes, exists = self.proposals(features, size)
        boxes, scores, labels = self.detections(features, boxes, exists, size)
        found = scores > NOT_ABSENT
        outputs = dict(
            boxes=boxes.where(found[..., None], 0.0), scores=scores.where(found, 0.0), labels=labels.where(found, 0)
        )
        if 'masks' in self.names:
            outputs['masks'] = self.masks(features, boxes, labels, size) & found[..., None, None]
        return outputs

    def proposals(self, features: tuple[Tensor, ...], size) -> tuple[Tensor, Tensor]:
        """Boxes (N, R, 4) of the RPN, best first, and which of them exist (N, R)."""
        rpn, cfg = self.model.rpn_head, self.model.test_cfg.rpn
        maps, deltas = rpn(features)
        priors = rpn.prior_generator.grid_priors([level.shape[-2:] for level in maps], device=maps[0].device)
        boxes, scores = [], []
        for logits, delta, prior in zip(maps, deltas, priors, strict=True):
            batch = logits.shape[0]
            score = logits.permute(0, 2, 3, 1).reshape(batch, -1, rpn.cls_out_channels)
            score = score.sigmoid()[..., 0] if rpn.use_sigmoid_cls else score.softmax(-1)[..., 0]
            delta = delta.permute(0, 2, 3, 1).reshape(batch, -1, 4)
            prior = prior[None].expand(batch, -1, -1)
            if cfg.get('nms_pre', -1) > 0:
                score, (delta, prior) = best(score, cfg.nms_pre, delta, prior)
            box = decode(rpn.bbox_coder, prior, delta, size)
            if cfg.get('min_bbox_size', -1) >= 0:
                large = ((box[..., 2:] - box[..., :2]) > cfg.min_bbox_size).all(-1)
                score = score.where(large, ABSENT)
            boxes.append(box)
            scores.append(suppress(box, score, cfg.nms, NOT_ABSENT))
        score, (box,) = best(torch.cat(scores, 1), cfg.max_per_img, torch.cat(boxes, 1))
        return box, score > NOT_ABSENT

    def detections(self, features, boxes: Tensor, exists: Tensor, size) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, K, 4), scores and labels (N, K), best first; K as the config says."""
        head, cfg = self.model.roi_head, self.model.test_cfg.rcnn
        batch, number = exists.shape
        scores = []
        for stage, bbox_head in enumerate(self.bbox_heads):
            cascade = [stage] if isinstance(head, CascadeRoIHead) else []
            result = head._bbox_forward(*cascade, features, to_rois(boxes))
            score, delta = result['cls_score'], result['bbox_pred']
            scores.append(score)
            if stage < len(self.bbox_heads) - 1:
                if bbox_head.custom_activation:
                    score = bbox_head.loss_cls.get_activation(score)
                label = score[:, :-1].argmax(1)
                if not bbox_head.reg_class_agnostic:
                    delta = delta.unflatten(1, (-1, 4)).gather(1, label[:, None, None].expand(-1, 1, 4))[:, 0]
                boxes = decode(bbox_head.bbox_coder, boxes, delta.reshape(batch, number, 4), size)
        bbox_head, score = self.bbox_heads[-1], sum(scores) / len(scores)
        score = bbox_head.loss_cls.get_activation(score) if bbox_head.custom_cls_channels else score.softmax(-1)
        classes = bbox_head.num_classes
        score = score[:, :classes].reshape(batch, number, classes).where(exists[..., None], ABSENT)
        delta = delta.reshape(batch, number, -1, 4)
        decoded = decode(bbox_head.bbox_coder, boxes[:, :, None].expand(-1, -1, delta.shape[2], -1), delta, size)
        decoded = decoded.expand(-1, -1, classes, -1)
        by_class = decoded.transpose(1, 2).flatten(0, 1), score.transpose(1, 2).flatten(0, 1)  # (N * classes, R, ...)
        kept = suppress(*by_class, cfg.nms, cfg.score_thr)
        kept = kept.reshape(batch, classes, number).transpose(1, 2).flatten(1)
        label = torch.arange(classes, device=kept.device).repeat(number)[None].expand(batch, -1)
        score, (box, label) = best(kept, cfg.max_per_img, decoded.flatten(1, 2), label)
        return box, score, label

    def masks(self, features, boxes: Tensor, labels: Tensor, size) -> Tensor:
        """(N, K, H, W) bool."""
        head, cascade = self.model.roi_head, isinstance(self.model.roi_head, CascadeRoIHead)
        rois, probabilities = to_rois(boxes), []
        mask_heads = list(head.mask_head) if cascade else [head.mask_head]
        for stage, mask_head in enumerate(mask_heads):
            arguments = [stage] if cascade else []
            mask = head._mask_forward(*arguments, features, rois)['mask_preds']
            if not mask_head.class_agnostic:
                index = labels.reshape(-1, 1, 1, 1).expand(-1, 1, *mask.shape[2:])
                mask = mask.gather(1, index)
            probabilities.append(mask[:, 0].sigmoid())
        pasted = paste(sum(probabilities) / len(probabilities), boxes.flatten(0, 1), size)
        return (pasted >= self.model.test_cfg.rcnn.mask_thr_binary).unflatten(0, labels.shape)


def best(scores: Tensor, number: int, *others: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The `number` best of scores (N, M), and what belongs to them of `others` (N, M, ...): always that many."""
    scores, index = F.pad(scores, (0, number), value=ABSENT).topk(number, dim=1)
    found = []
    for other in others:
        each = other.shape[2:]
        padded = F.pad(other, (0, 0) * len(each) + (0, number))
        found.append(padded.gather(1, index.reshape(*index.shape, *[1] * len(each)).expand(-1, -1, *each)))
    return scores, found


def decode(coder, boxes: Tensor, deltas: Tensor, size) -> Tensor:
    """The boxes that the coder makes of `deltas` (..., 4), within the image."""
    decoded = coder.decode(boxes.reshape(-1, 4), deltas.reshape(-1, 4), max_shape=size)
    return decoded.reshape(deltas.shape)


def suppress(boxes: Tensor, scores: Tensor, cfg: dict, score_threshold: float) -> Tensor:
    """The scores (B, M) of B sets of boxes, absent where non-maximum suppression within the set leaves a box out."""
    return scores.where(torch.ops.internimage.nms(boxes, scores, cfg['iou_threshold'], score_threshold), ABSENT)


def to_rois(boxes: Tensor) -> Tensor:
    """(N, R, 4) -> (N * R, 5), the index of the image first."""
    index = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    return torch.cat([index[:, None, None].expand(-1, boxes.shape[1], 1), boxes], dim=2).flatten(0, 1)


def extract(self: SingleRoIExtractor, features, rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
    """Replaces `SingleRoIExtractor.forward`: each level pools all RoIs, those of other levels as a box of one pixel."""
    if len(features) == 1:
        return self.roi_layers[0](features[0], rois)
    levels = self.map_roi_levels(rois, len(features))[:, None]
    if roi_scale_factor is not None:
        rois = self.roi_rescale(rois, roi_scale_factor)
    elsewhere = torch.cat([rois[:, :1], torch.zeros_like(rois[:, 1:3]), torch.ones_like(rois[:, 3:])], dim=1)
    pooled = 0.0
    for level, (layer, feature) in enumerate(zip(self.roi_layers, features, strict=True)):
        here = layer(feature, rois.where(levels == level, elsewhere))
        pooled = here.where((levels == level)[..., None, None], pooled)
    return pooled


def roi_align(self: RoIAlign, feature: Tensor, rois: Tensor) -> Tensor:
    """Replaces mmcv's `RoIAlign.forward`, whose arguments are checked by their values."""
    options = self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
    return torchvision.ops.roi_align(feature, rois, *options)


TwoStage.forwards = {SingleRoIExtractor: extract, DeformRoIExtractor: extract, RoIAlign: roi_align}


def paste(masks: Tensor, boxes: Tensor, size) -> Tensor:
    """Masks (K, h, w), each within its box (K, 4), as images (K, H, W): mmdet's `_do_paste_mask`, whose sampling of a
    regular grid is a product with the interpolation weights of both axes."""

    def weights(low: Tensor, high: Tensor, pixels: int, cells: int) -> Tensor:
        """(K, pixels, cells)"""
        centre = torch.arange(pixels, device=masks.device, dtype=masks.dtype) + 0.5
        position = (centre - low[:, None]) / (high - low).clamp(min=1e-6)[:, None] * cells - 0.5
        cell = torch.arange(cells, device=masks.device, dtype=masks.dtype)
        return (1 - (position[..., None] - cell).abs()).clamp(min=0)

    rows = weights(boxes[:, 1], boxes[:, 3], size[0], masks.shape[1])
    columns = weights(boxes[:, 0], boxes[:, 2], size[1], masks.shape[2])
    return rows @ masks @ columns.transpose(1, 2)
