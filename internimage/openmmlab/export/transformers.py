"""Detectors and segmentors with multi-scale deformable attention as one graph.

mmdet and mmcv hand the sizes of the feature maps on as a tensor, and what they compute from its values a graph would
take for constants. Here they are pairs of numbers (H, W).
"""

import torch
import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.layers import MSDeformAttnPixelDecoder
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor

from ops_dcnv3 import composed

from .detector import Detector

Sizes = list[tuple[int, int]]


def attention(
    self: MultiScaleDeformableAttention,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    identity: Tensor | None = None,
    query_pos: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    reference_points: Tensor | None = None,
    spatial_shapes: Sizes | None = None,
    **_,
) -> Tensor:
    """Replaces mmcv's `MultiScaleDeformableAttention.forward`, batch first, nothing masked; arguments as there."""
    value = query if value is None else value
    identity = query if identity is None else identity
    query = query if query_pos is None else query + query_pos
    heads, levels, points = self.num_heads, self.num_levels, self.num_points
    offsets = self.sampling_offsets(query).unflatten(2, (heads, levels, points, 2))
    weights = self.attention_weights(query).unflatten(2, (heads, levels * points)).softmax(-1)
    reference = reference_points[:, :, None, :, None]
    if reference.shape[-1] == 2:
        scale = torch.cat([sizes_as_tensor([(width, height)], query) for height, width in spatial_shapes])
        locations = reference + offsets / scale[:, None]
    else:
        locations = reference[..., :2] + offsets / points * reference[..., 2:] * 0.5
    value = self.value_proj(value).unflatten(2, (heads, -1))
    output = composed.ms_deform_attn(value, spatial_shapes, None, locations, weights.unflatten(3, (levels, points)))
    return self.output_proj(output) + identity


def sizes_as_tensor(sizes: Sizes, like: Tensor) -> Tensor:
    """(levels, 2)"""
    return torch.stack([torch.stack([torch.full((), side, dtype=like.dtype) for side in size]) for size in sizes])


def centres(sizes: Sizes, like: Tensor) -> list[Tensor]:
    """The centres of the pixels of each level, (H * W, 2) as (x, y) in [0, 1]."""
    points = []
    for height, width in sizes:
        y, x = (torch.arange(side, dtype=like.dtype, device=like.device).add(0.5) / side for side in (height, width))
        points.append(torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=-1).flatten(0, 1))
    return points


def decode_pixels(self: MSDeformAttnPixelDecoder, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Replaces `MSDeformAttnPixelDecoder.forward`; arguments and results as there."""
    levels = [features[self.num_input_levels - 1 - i] for i in range(self.num_encoder_levels)]
    batch, sizes = levels[0].shape[0], [tuple(feature.shape[2:]) for feature in levels]
    inputs, positions = [], []
    for i, feature in enumerate(levels):
        inputs.append(self.input_convs[i](feature).flatten(2).transpose(1, 2))
        position = self.postional_encoding(None, input=feature) + self.level_encoding.weight[i][:, None, None]
        positions.append(position.flatten(2).transpose(1, 2))
    reference = torch.cat(centres(sizes, levels[0]))[None, :, None].expand(batch, -1, len(levels), -1)
    memory = self.encoder(
        query=torch.cat(inputs, 1),
        query_pos=torch.cat(positions, 1),
        key_padding_mask=None,
        spatial_shapes=sizes,
        reference_points=reference,
        level_start_index=None,
        valid_ratios=None,
    )
    outputs, start = [], 0
    for height, width in sizes:
        level = memory[:, start : start + height * width]
        outputs.append(level.transpose(1, 2).unflatten(2, (height, width)))
        start = start + height * width
    for i in reversed(range(self.num_input_levels - self.num_encoder_levels)):
        lateral = self.lateral_convs[i](features[i])
        above = F.interpolate(outputs[-1], size=lateral.shape[-2:], mode='bilinear', align_corners=False)
        outputs.append(self.output_convs[i](lateral + above))
    return self.mask_feature(outputs[-1]), outputs[: self.num_outs]


FORWARDS = {MultiScaleDeformableAttention: attention, MSDeformAttnPixelDecoder: decode_pixels}


class DINO(Detector):
    """mmdet's DINO (arXiv 2203.03605), which needs no non-maximum suppression."""

    forwards = FORWARDS

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        model, head = self.model, self.model.bbox_head
        features = model.extract_feat(image)
        sizes = [tuple(feature.shape[2:]) for feature in features]
        flat, positions = [], []
        for feature, embedding in zip(features, model.level_embed, strict=True):
            flat.append(feature.flatten(2).transpose(1, 2))
            position = model.positional_encoding(None, input=feature).flatten(2).transpose(1, 2)
            positions.append(position + embedding)
        memory = torch.cat(flat, 1)
        everything = memory.new_ones(image.shape[0], len(sizes), 2)  # no image is padded
        points = centres(sizes, memory)
        reference = torch.cat(points)[None, :, None].expand(image.shape[0], -1, len(sizes), -1)
        for layer in model.encoder.layers:
            memory = layer(
                query=memory,
                query_pos=torch.cat(positions, 1),
                key_padding_mask=None,
                spatial_shapes=sizes,
                level_start_index=None,
                valid_ratios=everything,
                reference_points=reference,
            )
        query, anchors = self.queries(memory, points)
        states, references = model.decoder(
            query=query,
            value=memory,
            key_padding_mask=None,
            self_attn_mask=None,
            reference_points=anchors,
            spatial_shapes=sizes,
            level_start_index=None,
            valid_ratios=everything,
            reg_branches=head.reg_branches,
        )
        classes, boxes = head(states, list(references))
        number = min(head.test_cfg.get('max_per_img', model.num_queries), model.num_queries * head.num_classes)
        scores, index = classes[-1].sigmoid().flatten(1).topk(number, dim=1)
        chosen = boxes[-1].gather(1, (index // head.num_classes)[..., None].expand(-1, -1, 4))
        height, width = image.shape[2:]
        scale = sizes_as_tensor([(width, height, width, height)], image)
        return dict(
            boxes=bbox_cxcywh_to_xyxy(chosen).clamp(0, 1) * scale, scores=scores, labels=index % head.num_classes
        )

    def queries(self, memory: Tensor, points: list[Tensor]) -> tuple[Tensor, Tensor]:
        """mmdet's `pre_decoder`: the queries (N, Q, C), and the best of the encoder's boxes as anchors (N, Q, 4)."""
        model, last = self.model, self.model.decoder.num_layers
        extents = [torch.full_like(p, 0.05 * 2.0**level) for level, p in enumerate(points)]
        proposals = torch.cat([torch.cat(points), torch.cat(extents)], dim=1)[None]
        valid = ((proposals > 0.01) & (proposals < 0.99)).all(-1, keepdim=True)
        proposals = torch.log(proposals / (1 - proposals)).where(valid, float('inf'))
        features = model.memory_trans_norm(model.memory_trans_fc(memory.where(valid, 0.0)))
        scores = model.bbox_head.cls_branches[last](features).amax(-1)
        boxes = model.bbox_head.reg_branches[last](features) + proposals
        index = scores.topk(model.num_queries, dim=1).indices
        anchors = boxes.gather(1, index[..., None].expand(-1, -1, 4)).sigmoid()
        return model.query_embedding.weight.expand(memory.shape[0], -1, -1), anchors
