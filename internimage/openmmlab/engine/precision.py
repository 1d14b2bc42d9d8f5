"""Models in another dtype than float32, after `model.half()`, `.bfloat16()` or `.double()`."""

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import fcn_mask_head
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from .cpu_amp import in_single_precision

WITH_WEIGHTS = (nn.Linear, _ConvNd, nn.LayerNorm, nn.GroupNorm, _NormBase, nn.MultiheadAttention)


def take_any_dtype(model: nn.Module) -> None:
    """Lets a detector or segmentor of OpenMMLab run in the dtype that its weights are cast to, later and at any time.

    Images are cast to that dtype. mmdet and mmseg create tensors of float32, such as positions: the layers after the
    backbone cast their inputs. Where the dtype has 16 bits, boxes and the pooling of
    RoIs stay in float32: with the 8 bits of bfloat16 a corner at 1000 pixels could be 2 pixels off.
    """
    model.register_forward_pre_hook(_cast_images, with_kwargs=True)


def _cast_images(model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    dtype = next(model.backbone.parameters()).dtype
    if dtype == torch.float32:
        return None
    if not getattr(model, 'takes_any_dtype', False):  # the hooks inside; a model of float32 never has them
        _prepare(model)
        model.takes_any_dtype = True
    return args, {**kwargs, 'inputs': to_dtype(kwargs['inputs'], dtype)}


def _prepare(model: nn.Module) -> None:
    backbone = set(model.backbone.modules())
    exact = set()  # layers whose output is a position, or is added to one
    for module in model.modules():
        if isinstance(module, BaseRoIExtractor):
            exact.update(module.modules())
        elif isinstance(module, DETRHead) and hasattr(module, 'reg_branches'):
            exact.update(module.reg_branches.modules())
    for module in model.modules():
        if isinstance(module, WITH_WEIGHTS) and module not in backbone:
            module.register_forward_pre_hook(_cast_to_weights, with_kwargs=True)
        if isinstance(module, BaseRoIExtractor):
            module.register_forward_pre_hook(lambda _, args: in_single_precision(args))
        elif (
            isinstance(module, (BaseDenseHead, BBoxHead, DETRHead)) or isinstance(module, nn.Linear) and module in exact
        ):
            module.register_forward_hook(lambda _, args, outputs: in_single_precision(outputs))


def _cast_to_weights(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    dtype = next(module.parameters()).dtype
    return to_dtype(args, dtype), to_dtype(kwargs, dtype)


def to_dtype(data, dtype: torch.dtype):
    """`data`, tensors in any nest of containers, with those of a floating-point dtype in that one."""
    return apply_to(data, lambda x: isinstance(x, Tensor) and x.is_floating_point(), lambda x: x.to(dtype))


_paste = fcn_mask_head._do_paste_mask


def _paste_in_single_precision(masks: Tensor, boxes: Tensor, *args, **kwargs):
    """mmdet's own casts the masks to float32, but not the boxes."""
    return _paste(masks, boxes.float(), *args, **kwargs)


fcn_mask_head._do_paste_mask = _paste_in_single_precision
