"""mmcv's compiled operators: with or without a compiled mmcv, in any memory layout, of any floating-point dtype.

Importing this module does four things, so that no other module needs to know about them:

mmcv need not be compiled. Where it was installed as a pure wheel, which lacks `mmcv._ext`, the folder `mmcv_ext` is
appended to its path; its `_ext` uses torchvision's kernels and ours. A compiled one comes first on the path: it is used
if there is one, and raises an ImportError if it does not load.

mmdet and mmseg replace operators that they cannot import by functions that always raise.
`bind_operators` puts the operators back.

mmcv's Python hands tensors to `mmcv._ext` as they come, and most compiled functions read memory as if it were
contiguous: for a map in channels_last, a slice or an expanded tensor the result is wrong, without an error. And on the
CPU they support float32 and, in part, float64 only. Tensors are therefore converted on the way in and out.

mmcv has no kernel for multi-scale deformable attention on the CPU. There its layers call a function in PyTorch, which
`multi_scale_deformable_attn` replaces.
"""

import ast
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import mmcv
import torch
from torch import Tensor

from ops_dcnv3 import ms_deform_attn

SIXTEEN_BITS = (torch.float16, torch.bfloat16)
FOLDER = Path(__file__).with_name('mmcv_ext')


def load_extension() -> ModuleType:
    """`mmcv._ext`, compiled or ours.

    Raises:
        ImportError: mmcv has a compiled part, which does not load: it was built for another PyTorch.
    """
    if str(FOLDER) not in mmcv.__path__:
        mmcv.__path__.append(str(FOLDER))
    return importlib.import_module('mmcv._ext')


def is_compiled() -> bool:
    """Whether mmcv has its own compiled operators."""
    return Path(sys.modules['mmcv._ext'].__file__).parent != FOLDER


def bind_operators() -> None:
    """Binds the operators where mmcv, mmdet and mmseg have put substitutes because they could not import them."""
    for name, module in sorted(sys.modules.items()):  # mmcv before those that import from it
        if name.split('.')[0] in ('mmcv', 'mmdet', 'mmseg') and getattr(module, '__file__', None):
            for source, attribute, bound in optional_imports(module):
                if getattr(getattr(module, bound, None), '__module__', name) == name:
                    setattr(module, bound, getattr(importlib.import_module(source), attribute))


def optional_imports(module: ModuleType) -> Iterator[tuple[str, str, str]]:
    """(module, attribute, name bound here) of everything that a module imports from mmcv within a `try`."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        return
    if 'ImportError' not in source:
        return
    for node in ast.walk(ast.parse(source)):
        for statement in node.body if isinstance(node, ast.Try) else ():
            if isinstance(statement, ast.ImportFrom) and (statement.module or '').startswith('mmcv.'):
                for alias in statement.names:
                    yield statement.module, alias.name, alias.asname or alias.name


def guard(extension: ModuleType) -> None:
    """Wraps every function of the module by `guarded`; calling it again changes nothing."""
    for name, function in list(vars(extension).items()):
        own = callable(function) and function.__module__ == extension.__name__ and not name.startswith('_')
        if own and not hasattr(function, 'guarded'):
            setattr(extension, name, guarded(function))


def guarded(function: Callable) -> Callable:
    """`function` called with contiguous tensors.

    On the CPU tensors of 16 bits go in as float32; anywhere a function that refuses the dtype is called with float32
    for all. What it writes into a tensor that was converted is written back.
    """

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return _call(function, args, kwargs, _in_known_dtype)
        except RuntimeError as error:
            refused = 'not implemented for' in str(error) or 'expected scalar type' in str(error)
            if not refused or not any(map(_is_other_float, (*args, *kwargs.values()))):
                raise
        return _call(function, args, kwargs, _in_single_precision)

    call.guarded = True
    return call


def _call(function: Callable, args: tuple, kwargs: dict, convert: Callable[[Tensor], Tensor]):
    given = {id(value): value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
    passed = {key: convert(tensor).contiguous() for key, tensor in given.items()}  # the same tensor twice: one copy
    result = function(
        *(passed.get(id(value), value) for value in args),
        **{name: passed.get(id(value), value) for name, value in kwargs.items()},
    )
    for key, tensor in given.items():
        if passed[key] is not tensor and _differs(tensor, passed[key]):
            tensor.copy_(passed[key])
    return result


def _in_known_dtype(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in SIXTEEN_BITS and tensor.device.type == 'cpu' else tensor


def _in_single_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _is_other_float(value) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float32


def _differs(before: Tensor, after: Tensor) -> bool:
    """Whether an operator wrote into its copy of a tensor; to write inputs back would spoil what autograd has saved."""
    before = before.to(after.dtype)
    return not bool(((before == after) | ((before != before) & (after != after))).all())


def multi_scale_deformable_attn(
    value: Tensor, value_spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`ops_dcnv3.ms_deform_attn` for mmcv's layers, which on the CPU call a function of these arguments: the maps of
    the levels follow one another, and what is not of the dtype of `value` is converted."""
    sizes = value_spatial_shapes.prod(1)
    return ms_deform_attn(
        value, value_spatial_shapes, sizes.cumsum(0) - sizes, sampling_locations, attention_weights.to(value.dtype)
    )


guard(load_extension())
if not is_compiled():
    bind_operators()
importlib.import_module(
    'mmcv.ops.multi_scale_deform_attn'
).multi_scale_deformable_attn_pytorch = multi_scale_deformable_attn
