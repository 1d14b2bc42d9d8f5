"""When steps on the CPU may be joined, or left to another library: what :mod:`.linear` and :mod:`.module` ask."""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from .derivatives import is_forward_mode, is_transformed


def is_eager_on_cpu(input: Tensor) -> bool:
    """Is this the CPU, and nobody compiles or traces?"""
    return input.device.type == 'cpu' and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def only_the_result_counts() -> bool:
    """Is there no derivative of any kind to be taken, no other transform, and nobody who counts the steps?"""
    return (
        not torch.is_grad_enabled()
        and not is_in_torch_dispatch_mode()
        and not torch._C._is_torch_function_mode_enabled()
        and not is_transformed()
        and not is_forward_mode()
    )


def are_plain(*tensors: Tensor | None) -> bool:
    """Are these tensors of PyTorch's own class, with numbers of their own? None counts as plain."""
    for t in tensors:
        if t is not None and (type(t) not in (nn.Parameter, Tensor) or t.layout != torch.strided):
            return False
    return True
