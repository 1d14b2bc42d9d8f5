"""The linear layer of the backbone."""

import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import autocast_dtype
from .eager_cpu import is_eager_on_cpu, only_the_result_counts

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_FEW_PIXELS = 128  # below, convolutions are no faster


class Linear(nn.Linear):
    """``torch.nn.Linear``, on the CPU by oneDNN where that is faster.

    In float32 oneDNN takes instructions that PyTorch's usual library leaves unused on AMD processors. Without gradients
    it also adds the bias where it stores the result. Arguments, parameters, results and errors are those of
    ``torch.nn.Linear``. What looks for exactly that class leaves it out, as ``torch.ao.quantization.quantize_dynamic``.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not is_eager_on_cpu(input) or not self._is_for_onednn(input):
            return super().forward(input)
        dtype = autocast_dtype(input) or input.dtype
        if only_the_result_counts():
            product = torch.ops.mkldnn._linear_pointwise.default
            return product(input.to(dtype), self.weight.to(dtype), self.bias, 'none', (), '')
        pixels = input.numel() // self.in_features
        if torch.is_grad_enabled() and dtype == torch.float32 and input.dim() == 4 and pixels >= _FEW_PIXELS:
            # The same product as a convolution, which oneDNN has gradients for.
            convolved = F.conv2d(input.contiguous().permute(0, 3, 1, 2), self.weight[:, :, None, None], self.bias)
            return convolved.permute(0, 2, 3, 1)
        return super().forward(input)

    def _is_for_onednn(self, input: Tensor) -> bool:
        """Whether these are the tensors that the layer was built for; others are for PyTorch to take or refuse."""
        weight, bias, cast_to, known = self.weight, self.bias, autocast_dtype(input), _onednn_dtypes()
        return (
            (cast_to or input.dtype) in known
            and torch.backends.mkldnn.enabled
            and _is_dense(input)
            and input.dtype in _FLOATS
            and input.dim() > 0
            and input.shape[-1] == weight.shape[1] > 0
            and _is_dense(weight)
            and weight.shape[0] > 0
            and (weight.dtype == input.dtype if cast_to is None else weight.dtype in known)
            and (bias is None or (_is_dense(bias) and bias.dtype == weight.dtype and bias.shape == weight.shape[:1]))
        )


def _is_dense(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and tensor.device.type == 'cpu'


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
