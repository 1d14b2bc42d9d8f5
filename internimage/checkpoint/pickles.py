"""What the pickle of a checkpoint would do, found out without doing it.

`torch.load(weights_only=True)` calls the functions of a list, with whatever arguments the file gives. Given arguments
that no writer gives, some of them take any amount of memory or read memory that is not theirs: `numpy.ndarray` with an
object dtype, a sparse tensor with indices outside of it. `check_pickle` goes through the instructions first and allows
what `torch.save` writes for tensors, numpy arrays and plain Python, with sizes that the file can hold; `plain` turns
what was read into plain types.
"""

import math
import pickletools
import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# mmengine's record of a logged value, and how it refers to its statistics.
HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
STATISTICS = ('min', 'max', 'current', 'mean')
# The settings that the official classification stores: a dict with attributes; yacs is not needed.
SETTINGS = 'yacs.config.CfgNode'
# numpy 2 renamed numpy.core: a file written under either name is read under both.
RECONSTRUCT = tuple(f'numpy.{core}.multiarray._reconstruct' for core in ('core', '_core'))
SCALAR = tuple(f'numpy.{core}.multiarray.scalar' for core in ('core', '_core'))
STORAGES = {
    **dict.fromkeys(('torch.BoolStorage', 'torch.ByteStorage', 'torch.CharStorage'), 1),
    **dict.fromkeys(('torch.HalfStorage', 'torch.BFloat16Storage', 'torch.ShortStorage'), 2),
    **dict.fromkeys(('torch.FloatStorage', 'torch.IntStorage'), 4),
    **dict.fromkeys(('torch.DoubleStorage', 'torch.LongStorage', 'torch.ComplexFloatStorage'), 8),
    'torch.ComplexDoubleStorage': 16,
    'torch.storage.UntypedStorage': 1,
}
LARGEST = 2**62
DEEPEST = 100
MOST_VALUES = 10_000_000


class UnsafePickle(Exception):
    """The pickle contains something that no checkpoint contains. `name`: the class or function that is not allowed."""

    def __init__(self, reason: str, name: str | None = None):
        super().__init__(reason)
        self.name = name


class History:
    """Stands in for mmengine's HistoryBuffer while a file is read: its values, none of its functions."""

    def __setstate__(self, state: dict):
        self.arguments = [state.get(key) for key in ('_log_history', '_count_history', 'max_length')]


def history_statistic(owner, name: str) -> str:
    """Stands in for `getattr`, by which a HistoryBuffer refers to its statistics."""
    return name


class Name(str):
    """A name that the pickle looks up."""

    __slots__ = ()


class Made(NamedTuple):
    """What the pickle would have made: of which kind, and what has to be known about it later."""

    kind: str
    value: Any = None


class Nested(tuple):
    """A tuple, and how deeply tuples are nested in it: Python hashes them recursively, down to the end of the stack."""

    depth = 1


def check_pickle(file, allowed: Collection[str], limit: int, sizes: Mapping[str, int] | None = None) -> set[str]:
    """Goes through the one pickle that starts where `file` is, and leaves `file` behind it.

    Args:
        allowed: names that the user declared safe (`torch.serialization.add_safe_globals`).
        limit: bytes that the whole file has; nothing in it can be larger.
        sizes: bytes of every storage by its key, where the file lists them.

    Returns:
        the names that it looks up.

    Raises:
        UnsafePickle: see there.
        ValueError, IndexError, KeyError, ...: no pickle, or cut short.
    """
    return _Machine(allowed, limit, sizes).run(file)


class _Machine:
    def __init__(self, allowed, limit, sizes):
        self.allowed, self.limit, self.sizes = set(allowed) - _CALLS.keys() - set(_NAMES), limit, sizes
        self.stack, self.marks, self.memo, self.storages, self.names = [], [], {}, {}, set()

    def run(self, file) -> set[str]:
        stack = self.stack
        for opcode, arg, _ in pickletools.genops(file):
            name = opcode.name
            if name in _CONSTANTS:
                stack.append(arg)
            elif name in ('BINPUT', 'LONG_BINPUT'):
                self.memo[arg] = stack[-1]
            elif name in ('BINGET', 'LONG_BINGET'):
                stack.append(self.memo[arg])
            elif name in _VALUES:
                stack.append(_VALUES[name])
            elif name == 'EMPTY_DICT':
                stack.append(Made('dict', []))  # its keys
            elif name == 'EMPTY_LIST':
                stack.append(Made('list'))
            elif name == 'EMPTY_SET':
                stack.append(Made('set'))
            elif name == 'MARK':
                self.marks.append(len(stack))
            elif name == 'GLOBAL':
                stack.append(self.look_up(arg))
            elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
                stack.append(_tuple(self.pop(int(name[-1]))))
            elif name == 'TUPLE':
                stack.append(_tuple(self.pop_mark()))
            elif name == 'APPEND':
                self.pop(1)
                _expect(_kind(stack[-1]) == 'list', 'appends to what is not a list')
            elif name == 'APPENDS':
                self.pop_mark()
                _expect(_kind(stack[-1]) == 'list', 'appends to what is not a list')
            elif name == 'SETITEM':
                self.set_items(self.pop(2))
            elif name == 'SETITEMS':
                self.set_items(self.pop_mark())
            elif name == 'BINPERSID':
                stack.append(self.storage(stack.pop()))
            elif name in ('REDUCE', 'NEWOBJ'):
                function, args = self.pop(2)
                stack.append(self.call(function, args, name == 'NEWOBJ'))
            elif name == 'BUILD':
                state = stack.pop()
                self.build(stack[-1], state)
            elif name not in ('PROTO', 'STOP'):
                raise UnsafePickle(f'has the pickle instruction {name}, which torch.save does not write')
        return self.names

    def pop(self, count: int) -> list:
        _expect(len(self.stack) - count >= (self.marks[-1] if self.marks else 0), 'is not a complete pickle')
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_mark(self) -> list:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def look_up(self, arg: str) -> Name:
        module, _, name = arg.partition(' ')
        full = Name(f'{"builtins" if module == "__builtin__" else module}.{name}')  # Python 2's name, as torch does
        known = full in _CALLS or full in _NAMES or full in STORAGES or _dtype(full) or full in self.allowed
        if not known:
            raise UnsafePickle(f'holds {full}', full)
        self.names.add(full)
        return full

    def set_items(self, items: list) -> None:
        target = self.stack[-1]
        _expect(_kind(target) in ('dict', 'ordered', 'other'), 'sets an item of what is not a dict')
        _expect(len(items) % 2 == 0, 'is not a complete pickle')
        if target.value is not None:
            target.value.extend(items[::2])

    def storage(self, reference) -> Made:
        """('storage', type, key, where it was, number of elements), before torch 1.6 with None or a part of it."""
        _expect(type(reference) is Nested and len(reference) in (5, 6), 'refers to what is not a storage')
        kind, name, key, location, numel = reference[:5]
        fine = kind == 'storage' and name in STORAGES and type(key) is str and type(location) is str
        _expect(fine and _is_size(numel), 'refers to what is not a storage')
        size = numel * STORAGES[name]
        expected = size if self.sizes is None else self.sizes.get(key)
        if size > self.limit or size != expected:
            raise UnsafePickle(f'says that a tensor has {size} bytes, which the file does not have')
        _expect(self.storages.setdefault(key, (name, numel)) == (name, numel), 'describes one storage in two ways')
        part = reference[5] if len(reference) == 6 else None
        if part is not None:
            _expect(type(part) is Nested and len(part) == 3 and all(map(_is_size, part[1:])), 'has a broken storage')
            _expect(part[1] + part[2] <= numel, 'has a storage that is part of a smaller one')
            numel = part[2]
        return Made('storage', (STORAGES[name], numel))

    def call(self, function, args, new: bool):
        _expect(isinstance(function, Name) and type(args) is Nested, 'calls what is not a function')
        rule = _CALLS.get(function)
        if rule is not None and new == (function in (HISTORY, SETTINGS)):
            made = rule(self, *args) if _arity(rule, args) else None
        else:
            made = Made('other') if function in self.allowed else None
        if made is None:
            raise UnsafePickle(f'calls {function} with what torch.save does not give it')
        return made

    def build(self, target, state) -> None:
        kind = _kind(target)
        if kind == 'array':
            fine = type(state) is Nested and len(state) == 5 and state[0] == 1 and type(state[3]) in (bool, int)
            fine = fine and _sizes(state[1]) and _kind(state[2]) == 'dtype'
            if not fine or math.prod(state[1]) * state[2].value != _length(state[4]):
                raise UnsafePickle('has a numpy array whose shape, type and bytes do not fit each other')
        elif kind == 'dtype':
            fine = type(state) is Nested and len(state) == 8 and state[0] == 3 and state[1] in ('<', '>', '=', '|')
            _expect(fine and state[2:] == (None, None, None, -1, -1, 0), 'has a numpy type that is no number')
        elif kind in ('ordered', 'history'):
            keys = state.value if _kind(state) == 'dict' else [None]
            known = HISTORY_STATE.__contains__ if kind == 'history' else lambda key: key.startswith('_')
            _expect(all(type(key) is str and known(key) for key in keys), 'sets attributes that it should not')
        else:
            _expect(kind == 'other', 'sets the state of what has none')

    # The functions, each with what torch.save gives it; None for anything else.

    def tensor(self, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
        fine = type(requires_grad) is bool and (hooks is None or hooks == Made('ordered', []))
        return self.strided(storage, offset, size, stride) if fine else None

    def tensor_of_type(self, storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None):
        itemsize = _dtype(dtype)
        if _kind(storage) != 'storage' or not itemsize or type(requires_grad) is not bool:
            return None
        width, numel = storage.value
        return self.strided(Made('storage', (itemsize, width * numel // itemsize)), offset, size, stride)

    def strided(self, storage, offset, size, stride):
        size, stride = (x.value if _kind(x) == 'size' else x for x in (size, stride))
        fine = _kind(storage) == 'storage' and _is_size(offset) and _sizes(size) and _sizes(stride)
        if not fine or len(size) != len(stride):
            return None
        itemsize, numel = storage.value
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if math.prod(size) else -1
        if last >= numel or math.prod(size) * itemsize > self.limit:
            raise UnsafePickle(f'has a tensor of shape {tuple(size)}, of which the file does not hold all values')
        return Made('tensor')

    def parameter(self, data, requires_grad, hooks):
        return Made('tensor') if _kind(data) == 'tensor' and type(requires_grad) is bool else None

    def size(self, sizes):
        return Made('size', sizes) if _sizes(sizes) else None

    def device(self, kind, index=None):
        return Made('device') if type(kind) is str and (index is None or _is_size(index)) else None

    def ordered(self, items=None):
        return Made('ordered', []) if items is None or _kind(items) == 'list' else None

    def counter(self, counts=None):
        return Made('ordered', []) if counts is None or _kind(counts) == 'dict' else None

    def set(self, items=None):
        return Made('set') if items is None or _kind(items) == 'list' else None

    def complex(self, real, imag):
        return Made('number') if type(real) is type(imag) is float else None

    def bytes(self):
        return Made('bytes', 0)

    def encode(self, text, encoding):
        return Made('bytes', len(text)) if type(text) is str and encoding == 'latin1' else None

    def numpy_dtype(self, code, align, copy):
        number = type(code) is str and re.fullmatch(r'[<>=|]?([biufc]\d{1,2}|\?)', code)
        return Made('dtype', np.dtype(code).itemsize) if number and {align, copy} <= {0, 1} else None

    def numpy_scalar(self, dtype, content):
        fits = _kind(dtype) == 'dtype' and _length(content) == dtype.value
        return Made('number') if fits else None

    def numpy_array(self, cls, shape, kind):
        return Made('array') if cls == 'numpy.ndarray' and shape == (0,) and _length(kind) == 1 else None

    def history(self):
        return Made('history')

    def statistic(self, owner, name):
        if owner != HISTORY or name not in STATISTICS:
            raise UnsafePickle('holds getattr', Name('builtins.getattr'))
        return Made('function')


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise UnsafePickle(otherwise)


def _kind(item) -> str | None:
    return item.kind if type(item) is Made else None


def _tuple(items: list) -> Nested:
    made = Nested(items)
    made.depth = 1 + max((item.depth for item in items if type(item) is Nested), default=0)
    _expect(made.depth <= DEEPEST, 'nests its values too deep')
    return made


def _is_size(value) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def _sizes(values) -> bool:
    return type(values) is Nested and len(values) <= 64 and all(map(_is_size, values))


def _length(content) -> int | None:
    return content.value if _kind(content) == 'bytes' else len(content) if type(content) is str else None


def _dtype(name) -> int:
    """Bytes of an element of a torch dtype; 0 for any other name, and for quantized and raw types."""
    number = isinstance(name, Name) and re.fullmatch(r'torch\.(b?float|u?int|bool|complex)\w*', name)
    dtype = getattr(torch, name[6:], None) if number else None
    return dtype.itemsize if isinstance(dtype, torch.dtype) else 0


def _arity(rule, args) -> bool:
    code = rule.__code__
    most = code.co_argcount - 1
    return most - len(rule.__defaults__ or ()) <= len(args) <= most


_CONSTANTS = frozenset(('BININT', 'BININT1', 'BININT2', 'BINFLOAT', 'BINUNICODE', 'SHORT_BINSTRING', 'LONG1'))
_VALUES = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': Nested()}
HISTORY_STATE = ('_log_history', '_count_history', 'max_length', 'statistics_methods', '_statistics_methods')
_NAMES = ('numpy.ndarray', 'torch.Size')
_CALLS = {
    'torch._utils._rebuild_tensor': _Machine.tensor,
    'torch._utils._rebuild_tensor_v2': _Machine.tensor,
    'torch._utils._rebuild_tensor_v3': _Machine.tensor_of_type,
    'torch._utils._rebuild_parameter': _Machine.parameter,
    'torch.Size': _Machine.size,
    'torch.device': _Machine.device,
    'collections.OrderedDict': _Machine.ordered,
    'collections.Counter': _Machine.counter,
    'builtins.set': _Machine.set,
    'builtins.complex': _Machine.complex,
    'builtins.bytes': _Machine.bytes,
    'builtins.getattr': _Machine.statistic,
    '_codecs.encode': _Machine.encode,
    'numpy.dtype': _Machine.numpy_dtype,
    **dict.fromkeys(SCALAR, _Machine.numpy_scalar),
    **dict.fromkeys(RECONSTRUCT, _Machine.numpy_array),
    HISTORY: _Machine.history,
    SETTINGS: _Machine.ordered,
}


def safe_globals() -> list:
    """For `torch.serialization.safe_globals`: what torch may call, once `check_pickle` has seen the arguments."""
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    dtypes = {type(np.dtype(code)) for code in '?' + np.typecodes['AllInteger'] + np.typecodes['AllFloat']}
    return [
        (History, HISTORY),
        (history_statistic, 'builtins.getattr'),
        (bytes, 'builtins.bytes'),
        np.ndarray,
        np.dtype,
        *dtypes,
        *((multiarray._reconstruct, name) for name in RECONSTRUCT),
        *((multiarray.scalar, name) for name in SCALAR),
        (OrderedDict, SETTINGS),
    ]


def plain(content, trusted: tuple[type, ...] = ()):
    """`content` as it was read, of plain types and without anything that can be called.

    A History becomes mmengine's HistoryBuffer, where mmengine is installed.

    Args:
        trusted: classes that the user declared safe; their objects stay as they are.

    Raises:
        UnsafePickle: classes or functions as values, something that contains itself, or more than ten million values
            (a few lists that refer to each other can amount to any number).
    """
    return _plain(content, trusted, {}, 0)[0]


_ATOMS = (str, int, float, bool, type(None), complex, bytes, torch.dtype, torch.device, np.dtype)


def _plain(value, trusted, seen: dict, depth: int):
    """Also returns how many values it amounts to. `seen` has both by the value's id, None for those around this one."""
    kind = type(value)
    if kind in _ATOMS or isinstance(value, (np.generic, np.dtype)):
        return value, 1
    if id(value) in seen:
        _expect(seen[id(value)] is not None, 'holds something that contains itself')
        return seen[id(value)]
    _expect(depth <= DEEPEST, 'nests its values too deep')
    seen[id(value)] = None
    count = 1
    if kind in (dict, OrderedDict, Counter):
        made = kind()
        for key, item in dict.items(value):
            (key, one), (item, other) = (_plain(part, trusted, seen, depth + 1) for part in (key, item))
            made[key] = item
            count += one + other
    elif kind in (list, tuple, set):
        items = [_plain(item, trusted, seen, depth + 1) for item in value]
        made, count = kind(item for item, _ in items), 1 + sum(number for _, number in items)
    elif kind is History:
        made = _history(value)
    elif isinstance(value, Tensor):
        _expect(
            kind in (Tensor, torch.nn.Parameter) and value.layout is torch.strided, 'holds a tensor of a strange kind'
        )
        made = value
    elif kind in (torch.Size, np.ndarray, bytearray) or isinstance(value, trusted):
        made = value
    else:
        raise UnsafePickle(f'holds {_title(value)} as a value', _title(value))
    _expect(count <= MOST_VALUES, 'stands for more values than any checkpoint has')
    seen[id(value)] = made, count
    return made, count


def _title(value) -> str:
    owner = value if isinstance(value, type) or callable(value) else type(value)
    return f'{getattr(owner, "__module__", "")}.{getattr(owner, "__qualname__", "")}'


def _history(value: History):
    values, counts, longest = getattr(value, 'arguments', (None, None, None))
    fine = all(isinstance(x, np.ndarray) and x.ndim == 1 for x in (values, counts)) and len(values) == len(counts)
    _expect(fine and _is_size(longest), 'holds a log of values that is broken')
    try:
        buffer = import_module('mmengine.logging.history_buffer').HistoryBuffer
    except ImportError:  # without mmengine the training cannot be resumed
        return {'log_history': values, 'count_history': counts, 'max_length': longest}
    return buffer(values, counts, max(longest, 1))
