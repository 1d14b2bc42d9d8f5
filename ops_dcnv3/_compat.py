"""What this package uses of PyTorch that is not documented, all of it.

Each piece has a probe, which is made once, at import, and a fallback for a PyTorch where the probe fails. A fallback
gives the same results; it assumes what it cannot find out, so that work is done step by step that is otherwise joined
or compiled. The C++ library probes what it uses of oneDNN itself (csrc/linear.cpp); its fallback is at::linear.
"""

import contextlib
from collections.abc import Iterable

import torch
import torch.utils._python_dispatch
from torch import Tensor, nn
from torch.autograd import forward_ad


def _find(path: str):
    """``torch.{path}``, or None."""
    found = torch
    for name in path.split('.'):
        found = getattr(found, name, None)
    return found


def _works(path: str, kinds: type | tuple[type, ...], *arguments) -> bool:
    """Does ``torch.{path}`` take these arguments and return one of these kinds?"""
    try:
        return isinstance(_find(path)(*arguments), kinds)
    except Exception:
        return False


_GLOBAL_HOOKS = tuple(f'_global_{kind}_hooks' for kind in ('forward', 'forward_pre', 'backward', 'backward_pre'))
_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')

HAS_TRANSFORM_LEVEL = _works('_C._functorch.maybe_current_level', (int, type(None)))
HAS_FORWARD_LEVEL = isinstance(getattr(forward_ad, '_current_level', None), int)
HAS_BELOW_AUTOGRAD = hasattr(_find('_C._AutoDispatchBelowAutograd'), '__enter__')
HAS_DISPATCH_MODES = _works('utils._python_dispatch.is_in_torch_dispatch_mode', bool)
HAS_FUNCTION_MODES = _works('_C._is_torch_function_mode_enabled', bool)
HAS_HOOKS = all(isinstance(getattr(nn.Module(), name, None), dict) for name in _HOOKS)
HAS_GLOBAL_HOOKS = all(isinstance(getattr(nn.modules.module, name, None), dict) for name in _GLOBAL_HOOKS)
HAS_AUTOCAST_AVAILABLE = _works('amp.is_autocast_available', bool, 'cpu')


def is_transformed() -> bool:
    """Is a transform of torch.func at work? Assumed where it is unknown."""
    return not HAS_TRANSFORM_LEVEL or torch._C._functorch.maybe_current_level() is not None


def is_forward_mode(tensors: Iterable[Tensor | None]) -> bool:
    """Is forward-mode differentiation at work? Where the level is unknown: for these tensors, or a transform."""
    if HAS_FORWARD_LEVEL:
        return forward_ad._current_level >= 0
    return is_transformed() or any(has_tangent(t) for t in tensors)


def has_tangent(tensor: Tensor | None) -> bool:
    return tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None


def below_autograd() -> contextlib.AbstractContextManager:
    """A context without autograd's own work on the host, for calls that are not differentiated."""
    return torch._C._AutoDispatchBelowAutograd() if HAS_BELOW_AUTOGRAD else contextlib.nullcontext()


def is_in_mode() -> bool:
    """Does a mode of ``__torch_dispatch__`` or ``__torch_function__`` see every step? Assumed where it is unknown."""
    return (
        not HAS_DISPATCH_MODES
        or not HAS_FUNCTION_MODES
        or torch.utils._python_dispatch.is_in_torch_dispatch_mode()
        or torch._C._is_torch_function_mode_enabled()
    )


def has_hooks(module: nn.Module) -> bool:
    """Are there hooks on this module? Assumed where it is unknown."""
    return not HAS_HOOKS or any(getattr(module, name) for name in _HOOKS)


def has_global_hooks() -> bool:
    """Are there hooks on all modules? Assumed where it is unknown."""
    return not HAS_GLOBAL_HOOKS or any(getattr(nn.modules.module, name) for name in _GLOBAL_HOOKS)


def is_autocast_enabled(device_type: str) -> bool:
    """Is there an autocast for this type of device, and is it on?"""
    # torch.compile does not trace is_autocast_available in every version.
    if device_type not in ('cpu', 'cuda'):
        if HAS_AUTOCAST_AVAILABLE and not torch.amp.is_autocast_available(device_type):
            return False
        if not HAS_AUTOCAST_AVAILABLE:
            try:
                return torch.is_autocast_enabled(device_type)
            except RuntimeError:  # a type of device without autocast
                return False
    return torch.is_autocast_enabled(device_type)
