"""Inference on the CPU, where steps may be joined or computed by another library because only the result counts."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from .checks import autocast_dtype


def only_the_result_counts(input: Tensor) -> bool:
    """Is this the CPU without gradients, and nobody compiles, traces or counts the steps?"""
    return (
        input.device.type == 'cpu'
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not is_in_torch_dispatch_mode()
    )


def is_plain(module: nn.Module, kind: type) -> bool:
    """Is it of that very class, without a hook that sees its results?"""
    return type(module) is kind and not module._forward_hooks and not module._forward_pre_hooks


def linear(layer: nn.Module, input: Tensor) -> Tensor:
    """``layer(input)``, faster where ``layer`` is an ``nn.Linear`` in inference on the CPU.

    The product then is oneDNN's, which adds the bias where it stores the result, and in float32 takes instructions that
    PyTorch's usual library leaves unused on AMD processors. Layers with hooks, of classes of their own, or with weights
    of such (quantised, adapted, parametrised) are called as they are, and so is every layer elsewhere.
    """
    if not is_plain(layer, nn.Linear) or not only_the_result_counts(input):
        return layer(input)
    weight, cast_to = layer.weight, autocast_dtype(input)
    dtype, known = cast_to or input.dtype, _onednn_dtypes()
    if (
        dtype not in known
        or weight.dtype not in known
        or (cast_to is None and weight.dtype != dtype)
        or type(weight) is not nn.Parameter
        or weight.shape[1] != input.shape[-1]
        or not torch.backends.mkldnn.enabled
    ):
        return layer(input)
    product = torch.ops.mkldnn._linear_pointwise.default
    return product(input.to(dtype), weight.to(dtype), layer.bias, 'none', (), '')


@cache
def _onednn_dtypes() -> tuple[torch.dtype, ...]:
    """Those that oneDNN multiplies on this machine; none where PyTorch was built without it."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, '_linear_pointwise'):
        return ()
    return (torch.float32, *([torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else []))
