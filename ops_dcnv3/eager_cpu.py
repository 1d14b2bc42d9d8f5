"""Eager execution on the CPU, where steps may be joined, or computed by the faster of PyTorch's libraries."""

import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from .checks import autocast_dtype


def is_unobserved(input: Tensor) -> bool:
    """Is this the CPU, and nobody compiles, traces or counts the steps?"""
    return (
        input.device.type == 'cpu'
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not is_in_torch_dispatch_mode()
    )


def is_plain(module: nn.Module, kind: type) -> bool:
    """Is it of that very class, without a hook that sees its results?"""
    return type(module) is kind and not module._forward_hooks and not module._forward_pre_hooks


def linear(layer: nn.Module, input: Tensor) -> Tensor:
    """``layer(input)``; where ``layer`` is an ``nn.Linear`` on the CPU, by oneDNN if that is faster.

    In float32 oneDNN takes instructions that PyTorch's usual library leaves unused on AMD processors. Without gradients
    it also adds the bias where it stores the result. Layers with hooks, of classes of their own or with weights of such
    (quantised, adapted, parametrised) are called as they are, and so is every layer on other devices.
    """
    if not is_plain(layer, nn.Linear) or not is_unobserved(input):
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
    if not torch.is_grad_enabled():
        product = torch.ops.mkldnn._linear_pointwise.default
        return product(input.to(dtype), weight.to(dtype), layer.bias, 'none', (), '')
    if dtype == torch.float32 and input.dim() == 4 and input.numel() >= _FEW_PIXELS * input.shape[-1]:
        # The same product as a convolution, which oneDNN has gradients for.
        return F.conv2d(input.permute(0, 3, 1, 2), weight[:, :, None, None], layer.bias).permute(0, 2, 3, 1)
    return layer(input)


_FEW_PIXELS = 128  # below, convolutions are no faster


@cache
def _onednn_dtypes() -> tuple[torch.dtype, ...]:
    """Those that oneDNN multiplies fast on this machine; none where PyTorch was built without it."""
    if (
        platform.machine() not in ('x86_64', 'AMD64')
        or not torch.backends.mkldnn.is_available()
        or not hasattr(torch.ops.mkldnn, '_linear_pointwise')
    ):
        return ()
    return (torch.float32, *([torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else []))
