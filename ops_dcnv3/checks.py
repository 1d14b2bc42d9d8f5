"""What the operators' argument checks share. Every error names the operator, the rule and the value received."""

import math
import warnings
from functools import cache
from numbers import Integral, Real

import torch
from torch import Tensor

from . import _compat

Pair = int | tuple[int, int]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MOST = 2**31 - 1  # of any int: what kernels compute from it fits into 64 bits


def check_tensors(op: str, tensors: dict[str, Tensor]) -> None:
    """Are all of them tensors of a dtype that the operators take, on the device of the first of them?"""
    first = next(iter(tensors))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f'{op}: {name} must be a tensor, got {type(tensor).__name__}')
        if tensor.dtype not in DTYPES:
            raise TypeError(f'{op}: {name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}')
        device = tensors[first].device
        if tensor.device != device:
            raise ValueError(f'{op}: {name} must be on the device of {first}, {device}, got {tensor.device}')


def int_of(op: str, name: str, value: int, least: int, most: int = MOST) -> int:
    """`value` as an int; numpy's are taken too."""
    if not _is_int(value) or value < least:
        rule = 'a positive int' if least == 1 else f'an int, at least {least}'
        raise ValueError(f'{op}: {name} must be {rule}, got {value!r}')
    if value > most:
        raise ValueError(f'{op}: {name} must be at most {most}, got {value!r}')
    return value if type(value) is int else int(value)


def pair_of(op: str, name: str, value: Pair, least: int) -> tuple[int, int]:
    """`value` as a pair of ints, (height, width)."""
    pair = (value, value) if _is_int(value) else value
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2 and _is_int(pair[0]) and _is_int(pair[1])
    if not is_pair or pair[0] < least or pair[1] < least:
        raise ValueError(
            f'{op}: {name} must be an int or a pair of ints (height, width), at least {least}, got {value!r}'
        )
    if pair[0] > MOST or pair[1] > MOST:
        raise ValueError(f'{op}: {name} must be at most {MOST}, got {value!r}')
    return tuple(pair) if type(pair[0]) is type(pair[1]) is int else (int(pair[0]), int(pair[1]))


def _is_int(value) -> bool:
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def check_finite(op: str, name: str, value: float) -> None:
    number = type(value) is float or (isinstance(value, Real) and not isinstance(value, bool))
    if not number or not -math.inf < value < math.inf:  # torch.compile traces this, but not math.isfinite
        raise ValueError(f'{op}: {name} must be a finite number, got {value!r}')


def autocast_dtype(input: Tensor) -> torch.dtype | None:
    """What autocast has the tensors cast to; None where it is off, or leaves `input` as it is."""
    device_type = input.device.type
    on = _compat.is_autocast_enabled(device_type)
    return torch.get_autocast_dtype(device_type) if on and input.dtype != torch.float64 else None


def compiled_devices(operator: str) -> frozenset[str]:
    """Device types that the compiled `operator` has kernels for, and `meta`."""
    has_kernel = torch.ops.ops_dcnv3.has_kernel
    return frozenset({'meta', *(device for device in ('cpu', 'cuda') if has_kernel(operator, device.upper()))})


@cache
def warn_of_reference(op: str, device_type: str, stacklevel: int) -> None:
    warnings.warn(
        f'ops_dcnv3 has no compiled kernel for {device_type}: {op} runs as plain PyTorch, slowly.',
        stacklevel=stacklevel,
    )
