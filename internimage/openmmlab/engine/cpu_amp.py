"""Mixed precision on a CPU."""

from contextlib import contextmanager

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.utils import apply_to
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16 on the CPU, which mmengine's AmpOptimWrapper refuses; it needs no loss scaling."""

    @contextmanager
    def optim_context(self, model: nn.Module):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def keep_boxes_exact(model: nn.Module) -> None:
    """Boxes stay in single precision where the layers of a detector run in bfloat16.

    RoIs take on the type of the features: with the 8 bits of bfloat16 a corner at 1000 pixels could be 2 pixels off.
    """
    for module in model.modules():
        if isinstance(module, BaseRoIExtractor):
            module.register_forward_pre_hook(lambda _, args: in_single_precision(args))
        elif isinstance(module, BaseDenseHead):
            module.register_forward_hook(lambda _, args, outputs: in_single_precision(outputs))


def in_single_precision(data):
    """`data`, tensors in any nest of containers, with those of 16 bits as float32."""
    return apply_to(
        data, lambda x: torch.is_tensor(x) and x.dtype in (torch.bfloat16, torch.float16), torch.Tensor.float
    )
