"""The linear layer of the backbone."""

import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import autocast_dtype
from .eager_cpu import are_plain, is_eager_on_cpu, only_the_result_counts

_FEW_PIXELS = 128  # below, convolutions are no faster
_HAS_ONEDNN = platform.machine() in ('x86_64', 'AMD64') and torch.backends.mkldnn.is_available()


class Linear(nn.Linear):
    """``torch.nn.Linear``, on the CPU by oneDNN where that is faster.

    In float32 oneDNN takes instructions that PyTorch's usual library leaves unused on AMD processors. Without gradients
    it also adds the bias where it stores the result. Arguments, parameters, results and errors are those of
    ``torch.nn.Linear``. What looks for exactly that class leaves it out, as ``torch.ao.quantization.quantize_dynamic``.
    """

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if are_plain(input, weight, bias) and is_eager_on_cpu(input):
            if only_the_result_counts(input):
                return torch.ops.ops_dcnv3.linear.default(input, weight, bias)
            if torch.is_grad_enabled() and _can_convolve(input, weight, bias):
                # The same product as a convolution, which oneDNN has gradients for.
                pixels = input.contiguous().permute(0, 3, 1, 2)
                return F.conv2d(pixels, weight[:, :, None, None], bias).permute(0, 2, 3, 1)
        return F.linear(input, weight, bias)


def _can_convolve(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a convolution takes these, gives the same and is faster."""
    return (
        _HAS_ONEDNN
        and torch.backends.mkldnn.enabled
        and all(t.dtype == torch.float32 and t.device.type == 'cpu' for t in (input, weight, bias) if t is not None)
        and autocast_dtype(input) in (None, torch.float32)
        and input.dim() == 4
        and input.shape[3] == weight.shape[1] > 0
        and weight.shape[0] > 0
        and (bias is None or bias.shape == weight.shape[:1])
        and input.numel() >= _FEW_PIXELS * input.shape[3]
    )
