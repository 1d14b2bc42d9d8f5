"""When steps on the CPU may be joined, or left to another library: what :mod:`.linear` and :mod:`.module` ask."""

import torch
from torch import Tensor, nn

from . import _compat


def is_eager_on_cpu(input: Tensor) -> bool:
    """Is this the CPU, outside of compiling and tracing?"""
    return input.device.type == 'cpu' and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def only_the_result_counts(input: Tensor) -> bool:
    """Is there no derivative to be taken, no other transform, and no mode that sees the steps, as a FLOP counter?"""
    return (
        not torch.is_grad_enabled()
        and not _compat.is_in_mode()
        and not _compat.is_transformed()
        and not _compat.is_forward_mode((input,))
    )


def are_plain(*tensors: Tensor | None) -> bool:
    """Are these tensors of PyTorch's own class, with numbers of their own? None counts as plain."""
    for t in tensors:
        if t is not None and (type(t) not in (nn.Parameter, Tensor) or t.layout != torch.strided):
            return False
    return True
