"""Multi-scale deformable attention: what users call, and what PyTorch has to know of it."""

import torch
from torch import Tensor

from . import reference
from .checks import autocast_dtype, check_tensors, compiled_devices, warn_of_reference
from .derivatives import differentiable

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    r"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3), without its linear layers.

    Every query and head gives the sum of points that it reads in the maps of all levels, by their weights:

    .. math:: y_q = \sum_l \sum_k A_{qlk}\, x_l(\phi_l(p_{qlk}))

    Coordinates: a location is (x, y), 0 and 1 being the borders of a map, so that x * width - 0.5 is its column, the
    centre of the first pixel being 0. Between pixels the value is interpolated bilinearly; a corner outside the map
    reads 0. The numerics of mmcv's ``multi_scale_deformable_attn_pytorch``.

    Args:
        value (Tensor[N, S, heads, D]): the maps of all levels, pixel by pixel, row by row.
        spatial_shapes (Tensor[levels, 2]): integers, (height, width) of the maps.
        level_start_index (Tensor[levels]): integers, the first pixel of each map among the S.
        sampling_locations (Tensor[N, Q, heads, levels, points, 2]): any floating-point dtype; float32 also where
            ``value`` is of 16 bits, which are too few for a position.
        attention_weights (Tensor[N, Q, heads, levels, points]): of the dtype of ``value``.

    The tensors share one device. The dtype is float32, float64, bfloat16 or float16, sums of the 16-bit ones being kept
    in float32. Under autocast ``value`` and ``attention_weights`` of float32 are cast to the autocast dtype. There are
    gradients by ``value``, ``sampling_locations`` and ``attention_weights``; they are deterministic, on CUDA that of
    ``value`` only with ``torch.use_deterministic_algorithms``. A location that is NaN gives NaN. On a device without a
    compiled kernel :mod:`ops_dcnv3.reference` runs in its place, with a warning.

    Returns:
        Tensor[N, Q, heads * D]

    Raises:
        TypeError: an argument is not of its type, or the tensors differ in dtype.
        ValueError: a shape or a device does not fit, or (CPU) a map does not lie inside ``value``; the message has the
            rule and what was received. On other devices, which cannot tell in time, a level whose map lies outside
            gives NaN.
    """
    tensors = dict(value=value, sampling_locations=sampling_locations, attention_weights=attention_weights)
    _check(tensors, spatial_shapes, level_start_index)
    dtype = autocast_dtype(value)
    if dtype is not None:
        value, attention_weights = value.to(dtype), attention_weights.to(dtype)
    elif value.dtype != attention_weights.dtype:
        raise TypeError(
            'ms_deform_attn: attention_weights must have the dtype of value, got '
            f'{attention_weights.dtype} and {value.dtype}'
        )
    arguments = value, spatial_shapes, level_start_index, sampling_locations, attention_weights
    if value.device.type in _COMPILED_DEVICES:
        return _COMPILED(*arguments)
    warn_of_reference('ms_deform_attn', value.device.type, stacklevel=3)
    return reference.ms_deform_attn(*arguments)


def _check(tensors: dict[str, Tensor], spatial_shapes: Tensor, level_start_index: Tensor) -> None:
    name = 'ms_deform_attn'
    check_tensors(name, tensors)
    value, locations = tensors['value'], tensors['sampling_locations']
    if value.dim() != 4 or any(size < 1 for size in value.shape[1:]):
        raise ValueError(
            f'{name}: value must be (N, S, heads, D), S, heads and D at least 1, got shape {tuple(value.shape)}'
        )
    batch, _, heads, _ = value.shape
    if locations.dim() != 6 or any(size < 1 for size in locations.shape[3:]):
        raise ValueError(
            f'{name}: sampling_locations must be (N, Q, heads, levels, points, 2), levels and points at least 1, '
            f'got shape {tuple(locations.shape)}'
        )
    _, queries, _, levels, points, _ = locations.shape
    weights = (batch, queries, heads, levels, points)
    for key, tensor, form, shape in (
        ('sampling_locations', locations, '(N, Q, heads, levels, points, 2)', (*weights, 2)),
        ('attention_weights', tensors['attention_weights'], '(N, Q, heads, levels, points)', weights),
        ('spatial_shapes', spatial_shapes, '(levels, 2)', (levels, 2)),
        ('level_start_index', level_start_index, '(levels,)', (levels,)),
    ):
        if key not in tensors:
            if not isinstance(tensor, Tensor):
                raise TypeError(f'{name}: {key} must be a tensor, got {type(tensor).__name__}')
            if tensor.dtype not in INTEGERS:
                raise TypeError(f'{name}: {key} must be of an integer dtype, got {tensor.dtype}')
            if tensor.device != value.device:
                raise ValueError(f'{name}: {key} must be on the device of value, {value.device}, got {tensor.device}')
        if tensor.shape != shape:
            raise ValueError(
                f'{name}: {key} must be {form} = {shape} for value {tuple(value.shape)} and sampling_locations '
                f'{tuple(locations.shape)}, got shape {tuple(tensor.shape)}'
            )


@torch.library.register_fake('ops_dcnv3::ms_deform_attn')
def _(value, spatial_shapes, level_start_index, sampling_locations, attention_weights):
    return value.new_empty((value.shape[0], sampling_locations.shape[1], value.shape[2] * value.shape[3]))


@torch.library.register_fake('ops_dcnv3::ms_deform_attn_backward')
def _(grad_output, value, spatial_shapes, level_start_index, sampling_locations, attention_weights, output_mask):
    by = (value, sampling_locations, attention_weights)
    return tuple(t.new_empty(t.shape if want else (0,)) for t, want in zip(by, output_mask, strict=True))


def _join_images(tensors, batches):
    """For torch.func.vmap, whose batches have the same levels."""
    value, shapes, starts, *others = tensors
    levels = shapes.shape[0] // batches
    same = shapes.unflatten(0, (batches, levels)), starts.unflatten(0, (batches, levels))
    if not all(torch.equal(t, t[:1].expand_as(t)) for t in same):
        raise ValueError('ms_deform_attn: under torch.func.vmap all batches must have the same levels')
    return value, same[0][0], same[1][0], *others


_COMPILED_DEVICES = compiled_devices('ms_deform_attn')
_COMPILED = differentiable('ms_deform_attn', reference.ms_deform_attn, tensors=5, by=(0, 3, 4), join=_join_images)
