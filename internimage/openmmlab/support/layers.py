"""Where the layers of mmcv sample, for :mod:`internimage.analysis`. Importing this module makes them known."""

from fnmatch import fnmatch

import torch
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack, MultiScaleDeformableAttention
from torch import Tensor, nn

from ops_dcnv3 import Sampling, sampling_window

from ...analysis import SupportError, register_layer


def _deform_conv(layer: DeformConv2dPack, x: Tensor, predicted: Tensor | None = None) -> Sampling:
    """DCN. Points run row by row, y before x."""
    predicted = layer.conv_offset(x) if predicted is None else predicted
    return _mmcv_convolution(layer, x, predicted)


def _modulated_deform_conv(layer: ModulatedDeformConv2dPack, x: Tensor, predicted: Tensor | None = None) -> Sampling:
    """DCNv2. What is predicted is two thirds offsets, one third the logits of the modulation."""
    predicted = layer.conv_offset(x) if predicted is None else predicted
    first, second, mask = predicted.chunk(3, dim=1)
    return _mmcv_convolution(layer, x, torch.cat([first, second], dim=1), mask.sigmoid())


def _mmcv_convolution(layer: nn.Module, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Sampling:
    groups, points = layer.deform_groups, layer.kernel_size[0] * layer.kernel_size[1]
    offset = offset.unflatten(1, (groups, points, 2)).permute(0, 4, 5, 1, 2, 3).flip(-1)
    window = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    middle, around = sampling_window(offset.shape[1:3], *window, like=offset)
    if mask is None:
        weights = offset.new_ones(offset.shape[:-1])
    else:
        weights = mask.unflatten(1, (groups, points)).permute(0, 3, 4, 1, 2)
    regular = middle[:, :, None, None] + around.flatten(0, 1)
    return Sampling(offset, regular, offset.new_ones(()), weights, tuple(x.shape[2:]))


def _deform_attention(
    layer: MultiScaleDeformableAttention,
    query: Tensor,
    *_,
    query_pos: Tensor | None = None,
    reference_points: Tensor | None = None,
    spatial_shapes: Tensor | None = None,
    predicted: Tensor | None = None,
    **__,
) -> list[Sampling]:
    """Deformable attention: one Sampling per level; the groups are the heads, the output's positions the queries."""
    query = query if query_pos is None else query + query_pos
    if not layer.batch_first:
        query = query.transpose(0, 1)
        predicted = (
            None if predicted is None else predicted.transpose(0, 1) if len(predicted) != len(query) else predicted
        )
    predicted = layer.sampling_offsets(query) if predicted is None else predicted
    heads, levels, points = layer.num_heads, layer.num_levels, layer.num_points
    offset = predicted.unflatten(-1, (heads, levels, points, 2))
    weights = layer.attention_weights(query).unflatten(-1, (heads, -1)).softmax(-1).unflatten(-1, (levels, points))
    found = []
    for level, (height, width) in enumerate(spatial_shapes.tolist()):
        size = offset.new_tensor([width, height])
        reference = reference_points[:, :, level, None, None]  # (N, queries, 1, 1, 2 or 4)
        if reference.shape[-1] == 4:  # boxes, of which an offset is a part
            unit = reference[..., 2:] * size * 0.5 / points
        else:
            unit = offset.new_ones(())
        regular = reference[..., :2] * size - 0.5
        found.append(
            Sampling(offset[:, :, :, level], regular, unit, weights[:, :, :, level], (height, width), channels=2)
        )
    return found


register_layer(DeformConv2dPack, 'conv_offset', _deform_conv)
register_layer(ModulatedDeformConv2dPack, 'conv_offset', _modulated_deform_conv)
register_layer(MultiScaleDeformableAttention, 'sampling_offsets', _deform_attention)


def layer_names(model: nn.Module, patterns: list[str] | None) -> list[str] | None:
    """The names of the modules that fit any of the patterns, such as 'backbone.layer[234].*.conv2', in their order;
    None, which means all deformable layers, where there are no patterns.

    Raises:
        SupportError: nothing fits a pattern.
    """
    if not patterns:
        return None
    names = [name for name, _ in model.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise SupportError(f'no module fits the pattern {pattern!r}; the modules are called such as {names[-1]!r}')
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
