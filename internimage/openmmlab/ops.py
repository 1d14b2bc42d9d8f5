"""mmcv's compiled operators, right for tensors in any memory layout and of any floating-point dtype.

mmcv's Python hands tensors to the functions of `mmcv._ext` as they come, and most of these read memory as if it were
contiguous: of a map in channels_last, a slice or an expanded tensor they make other numbers, silently. And on the CPU
they know float32 and, in part, float64. `guard` puts this right where the tensors cross into C++, for whatever in
mmcv, mmdet, mmseg or here calls them. Importing this module does it.
"""

import functools
import importlib
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

SIXTEEN_BITS = (torch.float16, torch.bfloat16)


def guard(extension: ModuleType) -> None:
    """Every function of the module then gets contiguous tensors of a dtype that it knows; twice is as once."""
    for name, function in list(vars(extension).items()):
        if callable(function) and not name.startswith('__') and not hasattr(function, 'guarded'):
            setattr(extension, name, guarded(function))


def guarded(function: Callable) -> Callable:
    """`function` called with contiguous tensors.

    On the CPU tensors of 16 bits go in as float32; anywhere a function that refuses the dtype is called with float32
    for all. What it writes into a tensor that was converted is written back.
    """

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return _call(function, args, kwargs, _in_known_dtype)
        except RuntimeError as error:
            refused = 'not implemented for' in str(error) or 'expected scalar type' in str(error)
            if not refused or not any(map(_is_other_float, (*args, *kwargs.values()))):
                raise
        return _call(function, args, kwargs, _in_single_precision)

    call.guarded = True
    return call


def _call(function: Callable, args: tuple, kwargs: dict, convert: Callable[[Tensor], Tensor]):
    given = {id(value): value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
    passed = {key: convert(tensor).contiguous() for key, tensor in given.items()}  # the same tensor twice: one copy
    result = function(
        *(passed.get(id(value), value) for value in args),
        **{name: passed.get(id(value), value) for name, value in kwargs.items()},
    )
    for key, tensor in given.items():
        if passed[key] is not tensor and _differs(tensor, passed[key]):
            tensor.copy_(passed[key])
    return result


def _in_known_dtype(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in SIXTEEN_BITS and tensor.device.type == 'cpu' else tensor


def _in_single_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _is_other_float(value) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float32


def _differs(before: Tensor, after: Tensor) -> bool:
    """Whether an operator wrote into its copy of a tensor; to write inputs back would spoil what autograd has saved."""
    before = before.to(after.dtype)
    return not bool(((before == after) | ((before != before) & (after != after))).all())


def attention_in_single_precision(attention: Callable) -> Callable:
    """mmcv's attention in PyTorch, with the same for tensors of 16 bits, which its `grid_sample` would not mix."""

    @functools.wraps(attention)
    def call(value, value_spatial_shapes, sampling_locations, attention_weights):
        if value.dtype not in SIXTEEN_BITS:
            locations, weights = sampling_locations.to(value.dtype), attention_weights.to(value.dtype)
            return attention(value, value_spatial_shapes, locations, weights)
        arguments = value.float(), value_spatial_shapes, sampling_locations.float(), attention_weights.float()
        return attention(*arguments).to(value.dtype)

    return call


guard(importlib.import_module('mmcv._ext'))
_attention = importlib.import_module('mmcv.ops.multi_scale_deform_attn')
_attention.multi_scale_deformable_attn_pytorch = attention_in_single_precision(
    _attention.multi_scale_deformable_attn_pytorch
)
