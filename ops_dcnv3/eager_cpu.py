"""When steps on the CPU may be joined, or left to another library: what :mod:`.linear` and :mod:`.module` ask."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def is_eager_on_cpu(input: Tensor) -> bool:
    """Is this the CPU, and nobody compiles or traces?"""
    return input.device.type == 'cpu' and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def only_the_result_counts() -> bool:
    """Is there no derivative of any kind to be taken, no other transform, and nobody who counts the steps?"""
    return (
        not torch.is_grad_enabled()
        and not is_in_torch_dispatch_mode()
        and torch._C._functorch.maybe_current_level() is None
        and forward_ad._current_level < 0
    )
