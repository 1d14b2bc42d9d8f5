"""Files that are no checkpoints, or that want to be more: each function writes some into a folder.

`write_all(folder)` returns {name: path}. A name that ends in `+` is of a file that may be read, as plain data.
"""

import collections
import io
import json
import os
import pickle
import socket
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch

PWNED = 'internimage-was-hacked'
MULTIARRAY = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray


class Call:
    """Pickled as a call of `function`, or as the setting of a `state` on what it returns."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


class New:
    """Pickled as `cls.__new__(cls)` with a `state`, under the name of any class."""

    def __init__(self, cls, state):
        self.reduced = (cls, state)

    def __reduce_ex__(self, protocol):
        import copyreg

        return copyreg.__newobj__, (self.reduced[0],), self.reduced[1]


def packed(content: bytes, storages: dict[str, bytes] | None = None, compression=zipfile.ZIP_STORED, more=()) -> bytes:
    """A file as torch.save writes it, with any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', compression) as archive:
        archive.writestr('archive/data.pkl', content)
        archive.writestr('archive/byteorder', 'little')
        for key, value in {'0': bytes(16), **(storages or {})}.items():
            archive.writestr(f'archive/data/{key}', value)
        archive.writestr('archive/version', '3\n')
        for name in more:
            archive.writestr(f'archive/{name}', b'')
    return buffer.getvalue()


def text(value: str) -> bytes:
    return b'X' + struct.pack('<I', len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b'\x8a' + bytes([len(data)]) + data


def name(full: str) -> bytes:
    module, _, last = full.rpartition('.')
    return b'c' + f'{module}\n{last}\n'.encode()


def storage(kind='torch FloatStorage', key='0', numel=4) -> bytes:
    """The reference to a storage of 4 floats; the file has 16 bytes under the key 0."""
    return b'(' + text('storage') + name(kind.replace(' ', '.')) + text(key) + text('cpu') + integer(numel) + b'tQ'


def ints(*values) -> bytes:
    return b'(' + b''.join(integer(value) for value in values) + b't'


def tensor(size=(4,), stride=(1,), offset=0, reference=None, size_code=None, function='_rebuild_tensor_v2') -> bytes:
    hooks = name('collections.OrderedDict') + b')R'
    args = (reference or storage()) + integer(offset) + (size_code or ints(*size)) + ints(*stride) + b'\x89' + hooks
    return name(f'torch._utils.{function}') + b'(' + args + b'tR'


def file_with(value: bytes, key: bytes | None = None) -> bytes:
    """A pickle {'state_dict': {'a': a good tensor}, 'x': value}."""
    good = text('state_dict') + b'}' + text('a') + tensor() + b's'
    return b'\x80\x02}(' + good + (key or text('x')) + value + b'u.'


def called(function: str, *args: bytes) -> bytes:
    return name(function) + b'(' + b''.join(args) + b'tR'


def pickles() -> dict[str, bytes]:
    """Values of the pickle as its instructions."""
    touch = text(f'touch {PWNED}')
    found = {}
    for function in (
        'posix.system',
        'os.system',
        'nt.system',
        'subprocess.Popen',
        'subprocess.check_output',
        'builtins.eval',
        'builtins.exec',
        'builtins.__import__',
        'builtins.open',
        'builtins.compile',
        '__builtin__.eval',
        'runpy.run_path',
        'importlib.import_module',
        'pickle.loads',
        'torch.load',
        'torch.jit.load',
        'torch.hub.load',
        'numpy.load',
        'shutil.rmtree',
        'webbrowser.open',
        'operator.attrgetter',
        'functools.partial',
        'pydoc.locate',
        'timeit.timeit',
        'mmengine.config.Config.fromstring',
        'types.FunctionType',
        'torch.ops.load_library',
        'builtins.bytearray',
    ):
        found[f'call {function}'] = called(function, touch)
    history = 'mmengine.logging.history_buffer.HistoryBuffer'
    float_type = called('numpy.dtype', text('f4'), b'\x89\x88')
    float32 = float_type + b'(K\x03' + text('<') + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
    array = called(
        'numpy.core.multiarray._reconstruct',
        name('numpy.ndarray') + b'K\x00\x85' + called('_codecs.encode', text('b'), text('latin1')),
    )
    raw = called('_codecs.encode', text('\x01' * 16), text('latin1'))

    def built(shape: bytes, dtype: bytes, content: bytes, version=1) -> bytes:
        return array + b'(' + integer(version) + shape + dtype + b'\x89' + content + b'tb'

    object_type = called('numpy.dtype', text('O8'), b'\x89\x88')
    found |= {
        'ndarray of objects from bytes': called('numpy.ndarray', ints(2), object_type, raw),
        'ndarray of 10^12': called('numpy.ndarray', ints(10**12)),
        'ndarray new': name('numpy.ndarray') + ints(10**6) + b'\x85\x81',
        'array of objects': built(ints(2), object_type, b']'),
        'array larger than its bytes': built(ints(10**9), float32, raw),
        'array of negative size': built(ints(-4), float32, raw),
        'array smaller than its bytes': built(ints(1), float32, raw),
        'array of a later version': built(ints(4), float32, raw, 7),
        'array reconstructed large': called(
            'numpy.core.multiarray._reconstruct', name('numpy.ndarray'), ints(10**12), raw
        ),
        'array of another class': called(
            'numpy.core.multiarray._reconstruct', name('collections.OrderedDict'), ints(0), raw
        ),
        'array with the dtype of torch': built(ints(4), name('torch.float32'), raw),
        'array whose shape is a tensor': built(tensor(), float32, raw),
        'array without a state': array + b'Nb',
        'scalar of an object': called('numpy.core.multiarray.scalar', object_type, raw),
        'scalar too short': called(
            'numpy.core.multiarray.scalar',
            called('numpy.dtype', text('f8'), b'\x89\x88'),
            called('_codecs.encode', text('a'), text('latin1')),
        ),
        'scalar too long': called('numpy.core.multiarray.scalar', float32, raw),
        'scalar without a dtype': called('numpy.core.multiarray.scalar', text('f4'), raw),
        **{
            f'dtype {code}': called('numpy.dtype', text(code), b'\x89\x88')
            for code in ('O', 'V8', 'S10', 'U4', 'M8[s]', 'V2000000000', 'f4,O', '(3,)f4', 'x' * 1000)
        },
        'dtype with fields': float_type
        + b'(K\x03'
        + text('<')
        + b'N'
        + text('a')
        + b'\x85}J\x10\x00\x00\x00J\xff\xff\xff\xffK\x00tb',
        'dtype of a large item': float_type + b'(K\x03' + text('<') + b'NNN' + integer(10**9) + b'K\x01K\x00tb',
        'dtype from a dict': called('numpy.dtype', b'}', b'\x89\x88'),
    }
    sparse = b'(' + tensor() + tensor() + ints(10**6) + b'\x88t'
    found |= {
        'tensor larger than its storage': tensor((10**9,)),
        'tensor of 10^18': tensor((10**9, 10**9), (10**9, 1)),
        'tensor of negative size': tensor((-4,)),
        'tensor of negative stride': tensor((4,), (-1,)),
        'tensor of negative offset': tensor((1,), (1,), -1000),
        'tensor of large offset': tensor((1,), (1,), 2**61),
        'tensor of huge offset': tensor((1,), (1,), 2**80),
        'tensor of large stride': tensor((2,), (2**61,)),
        'tensor expanded': tensor((2**40,), (0,)),
        'tensor of more strides': tensor((2, 2), (1,)),
        'tensor of 100 dimensions': tensor((1,) * 100, (1,) * 100),
        'tensor whose size is text': tensor(size_code=text('4')),
        'tensor whose size is a list': tensor(size_code=b']' + integer(4) + b'a'),
        'tensor whose size is a float': tensor(size_code=b'G@\x10\x00\x00\x00\x00\x00\x00\x85'),
        'tensor whose size is a truth': tensor(size_code=b'\x88\x85'),
        'tensor of a tensor': tensor(reference=tensor()),
        'tensor of nothing': tensor(reference=b'N'),
        'tensor of a list': tensor(reference=b']'),
        'tensor with hooks': called(
            'torch._utils._rebuild_tensor_v2', storage(), ints(), ints(), ints(), b'\x89', b'}'
        ),
        'tensor with few arguments': called('torch._utils._rebuild_tensor_v2', storage()),
        'storage of 10^12': tensor(reference=storage(numel=10**12)),
        'storage of negative size': tensor(reference=storage(numel=-1)),
        'storage larger than its record': tensor((8,), reference=storage(numel=8)),
        'storage smaller than its record': tensor((1,), reference=storage(numel=1)),
        'storage that is missing': tensor(reference=storage(key='7')),
        'storage outside': tensor(reference=storage(key='../version')),
        'storage of another type': tensor(reference=storage('torch DoubleStorage')),
        'storage of an unknown type': tensor(reference=storage('torch HalfFullStorage')),
        'storage of quantized numbers': tensor((16,), reference=storage('torch QUInt8Storage', numel=16)),
        'storage of a class': tensor(reference=storage('collections OrderedDict')),
        'storage of two types': b']'
        + tensor((2,), reference=storage('torch DoubleStorage', numel=2))
        + b'a'
        + tensor()
        + b'a',
        'storage by text': text('storage') + b'Q',
        'storage called module': b'('
        + text('module')
        + name('torch.FloatStorage')
        + text('0')
        + text('cpu')
        + integer(4)
        + b'tQ',
        'storage made': called('torch.storage.UntypedStorage', integer(10**12)),
        'tensor made': called('torch.FloatTensor', integer(10**12)),
        'tensor set': name('torch.Tensor') + b')R' + b'(' + storage() + integer(0) + ints(10**9) + ints(1) + b'tb',
        'tensor v3 of a quantized type': name('torch._utils._rebuild_tensor_v3')
        + b'('
        + storage()
        + integer(0)
        + ints(1)
        + ints(1)
        + b'\x89'
        + name('collections.OrderedDict')
        + b')R'
        + name('torch.quint8')
        + b'tR',
        'tensor v3 of a wider type': name('torch._utils._rebuild_tensor_v3')
        + b'('
        + storage('torch.storage UntypedStorage', numel=16)
        + integer(0)
        + ints(16)
        + ints(1)
        + b'\x89'
        + name('collections.OrderedDict')
        + b')R'
        + name('torch.uint16')
        + b'tR',
        'sparse tensor': called(
            'torch._utils._rebuild_sparse_tensor',
            called('torch.serialization._get_layout', text('torch.sparse_coo')),
            sparse,
        ),
        'sparse class': name('torch.sparse.FloatTensor') + sparse + b'R',
        'nested tensor': called('torch._utils._rebuild_nested_tensor', tensor(), tensor(), tensor(), tensor()),
        'quantized tensor': called(
            'torch._utils._rebuild_qtensor', storage(), integer(0), ints(4), ints(1), b'N', b'\x89', b'}'
        ),
        'meta tensor': called(
            'torch._utils._rebuild_meta_tensor_no_storage', name('torch.float32'), ints(10**15), ints(1), b'\x89'
        ),
        'wrapper tensor': called(
            'torch._utils._rebuild_wrapper_subclass',
            name('torch.Tensor'),
            name('torch.float32'),
            ints(10**15),
            ints(1),
            integer(0),
            b'N',
            text('cpu'),
            b'\x89',
        ),
        'tensor from numpy': called(
            'torch._utils._rebuild_device_tensor_from_numpy', array, name('torch.float32'), text('cpu'), b'\x89'
        ),
        'tensor by type': called(
            'torch._tensor._rebuild_from_type_v2', name('collections.OrderedDict'), name('torch.Tensor'), b')', b'}'
        ),
        'parameter of text': called('torch._utils._rebuild_parameter', text('a'), b'\x89', b'}'),
        'parameter new': name('torch.nn.parameter.Parameter') + tensor() + b'\x85\x81',
        'size of a tensor': called('torch.Size', tensor()),
        'size of 2^70': called('torch.Size', ints(2**70)),
    }
    deep = b']' * 100_000 + b'a' * 99_999
    laughs = b']q\x00' + text('ha') + b'a'
    for number in range(1, 60):
        laughs += b']q' + bytes([number]) + (b'h' + bytes([number - 1]) + b'a') * 2
    laughs = b'(' + laughs + b't'
    found |= {
        'list in itself': b']q\x00h\x00a',
        'dict in itself': b'}q\x00' + text('a') + b'h\x00s',
        'dict in itself by way of a tuple': b'}q\x00' + text('a') + b'h\x00\x85s',
        'a list that stands for 2^59 texts': laughs,
        'list nested 100,000 times': deep,
        'tuple nested 200,000 times': b')' + b'\x85' * 200_000,
        'dict nested 100,000 times': (b'}' + text('a')) * 100_000 + b'N' + b's' * 100_000,
        'counter of a tensor': called('collections.Counter', tensor()),
        'ordered dict of a tensor': called('collections.OrderedDict', tensor()),
        'set of a tensor': called('builtins.set', tensor()),
        'ordered dict with other methods': name('collections.OrderedDict')
        + b')R}'
        + text('items')
        + name('collections.Counter')
        + b'sb',
        'ordered dict with a state of text': name('collections.OrderedDict') + b')R' + text('abc') + b'b',
        'settings with other methods': name('yacs.config.CfgNode')
        + b')\x81}'
        + text('get')
        + name('collections.Counter')
        + b'sb',
        'history without a state': name(history) + b')\x81',
        'history of lists': name(history)
        + b')\x81}('
        + text('_log_history')
        + b']'
        + text('_count_history')
        + b']'
        + text('max_length')
        + b'K\x05ub',
        'history of unequal length': name(history)
        + b')\x81}('
        + text('_log_history')
        + array
        + text('_count_history')
        + built(ints(4), float32, raw)
        + text('max_length')
        + b'K\x05ub',
        'history with other methods': name(history) + b')\x81}' + text('mean') + name('collections.Counter') + b'sb',
        'history called': called(history, b']', b']', integer(10**15)),
        'getattr of another class': called('builtins.getattr', name('collections.OrderedDict'), text('fromkeys')),
        'getattr of another method': called('builtins.getattr', name(history), text('register_statistics')),
        'getattr of the class itself': called('builtins.getattr', name(history), text('__init__')),
        'a class as a value': name('collections.OrderedDict'),
        'a numpy class as a value': name('numpy.ndarray'),
        'a function as a value': name('_codecs.encode'),
        'bytes by another codec': called('_codecs.encode', text('a' * 100), text('zip')),
        'bytes by an unknown codec': called('_codecs.encode', text('a'), text('os.system')),
        'complex of text': called('builtins.complex', text('1'), text('2')),
        'device of many': called('torch.device', text('cpu'), integer(2**70)),
        'append to text': text('a') + b'Na',
        'item of a tensor': tensor() + b'K\x00K\x00s',
        'state of a tensor': tensor() + b'}' + text('data') + b'Nsb',
        'state of a list': b']}b',
        'a call of what was called': called('collections.OrderedDict') + b')R',
        'a call with a list': name('collections.OrderedDict') + b']R',
        'memo that is missing': b'h\x63',
        'memo of 4 billion +': b'Nr\xff\xff\xff\xff',
        'instruction INST': b'(iposix\nsystem\n',
        'instruction OBJ': b'(' + name('posix.system') + touch + b'o',
        'instruction EXT1': b'\x82\x01',
        'instruction STACK_GLOBAL': text('posix') + text('system') + b'\x93',
        'instruction BYTEARRAY8': b'\x96' + struct.pack('<Q', 2**40),
        'instruction BINUNICODE8': b'\x8d' + struct.pack('<Q', 2**40),
        'text of 4 GB': b'X\xff\xff\xff\xff',
    }
    return found


def odd_metas() -> dict[str, object]:
    """Values of `meta` that do not say which classes there are; with `+` they do, or say nothing."""
    classes, palette = ['cat', 'dog'], [(1, 2, 3), (4, 5, 6)]
    odd = {
        'meta a list': ['a'],
        'meta text': 'abc',
        'meta a number': 7,
        'meta a truth': True,
        'meta a tensor': torch.ones(3),
        'dataset_meta a list': {'dataset_meta': ['a']},
        'dataset_meta text': {'dataset_meta': 'coco'},
        'dataset_meta a number': {'dataset_meta': 3},
        'classes text': {'dataset_meta': {'classes': 'person'}},
        'classes a number': {'dataset_meta': {'classes': 80}},
        'classes numbers': {'dataset_meta': {'classes': [1, 2]}},
        'classes None': {'dataset_meta': {'classes': [None]}},
        'classes a dict': {'dataset_meta': {'classes': {'a': 1}}},
        'classes lists': {'dataset_meta': {'classes': [['a'], ['b']]}},
        'classes bytes': {'CLASSES': [b'a']},
        'classes an array': {'CLASSES': np.arange(3)},
        'classes a tensor': {'CLASSES': torch.arange(3)},
    }
    for title, colors in {
        'a word': 'blue',
        'words': ['red', 'green'],
        'a number': 7,
        'numbers': [1, 2],
        'pairs': [(1, 2), (3, 4)],
        'four': [(1, 2, 3, 4)] * 2,
        'negative': [(-1, 0, 0)] * 2,
        'large': [(300, 0, 0)] * 2,
        'fractions': [(0.5, 0.1, 0.2)] * 2,
        'NaN': [(float('nan'),) * 3] * 2,
        'infinite': [(float('inf'),) * 3] * 2,
        'None': [None, None],
        'a dict': {'a': (1, 2, 3)},
        'texts': [('1', '2', '3')] * 2,
        'an array of one dimension': np.arange(6),
        'a number in a tensor': torch.tensor(3),
    }.items():
        odd[f'palette {title}'] = {'dataset_meta': {'classes': classes, 'palette': colors}}
    fine = {
        'meta None+': None,
        'meta empty+': {},
        'classes None+': {'dataset_meta': {'classes': None, 'palette': None}},
        'keys that are no text+': {1: 2, None: 3, 'classes': classes},
        'names that steer a terminal+': {
            'dataset_meta': {'classes': ['\x1b[31mred\x1b[0m', 'a\nb' * 9000], 'palette': palette}
        },
        'palette random+': {'dataset_meta': {'classes': classes, 'palette': 'random'}},
        'palette too short+': {'dataset_meta': {'classes': classes, 'palette': palette[:1]}},
        'palette an array+': {'dataset_meta': {'classes': classes, 'palette': np.array(palette, np.uint8)}},
    }
    return odd | fine


def write_pickles(folder: Path) -> dict[str, Path]:
    files = {}

    def put(title: str, content: bytes):
        files[title] = folder / f'{len(files)}.pth'
        files[title].write_bytes(content)

    for title, value in pickles().items():
        put(title, packed(file_with(value)))
    put('tuple nested 200,000 times as a key', packed(file_with(b'N', b')' + b'\x85' * 200_000)))
    put('a list as a key', packed(file_with(b'N', b']')))
    good = file_with(b'N')
    for title in ('call posix.system', 'ndarray of objects from bytes', 'list in itself', 'tuple nested 200,000 times'):
        legacy = io.BytesIO()
        torch.save(1, legacy, _use_new_zipfile_serialization=False)
        start = legacy.getvalue()[: -len(pickle.dumps(1, 2)) - len(pickle.dumps([], 2))]
        put(f'{title}, before torch 1.6', start + b'\x80\x02' + pickles()[title] + b'.' + pickle.dumps([], 2))
    put('compressed', packed(good, compression=zipfile.ZIP_DEFLATED))
    bomb = file_with(text('a' * 50_000_000))
    put('compressed text of 50 MB', packed(bomb, compression=zipfile.ZIP_DEFLATED))
    put('TorchScript', packed(good, more=('constants.pkl',)))
    put('cut in the directory', packed(good)[:-30])
    put('cut in the middle', packed(good)[:200])
    put('garbage behind', packed(good) + b'\0' * 70_000)
    put('without a pickle', packed(good).replace(b'data.pkl', b'data.abc'))
    put('stack is empty', packed(b'\x80\x020.'))
    put('mark is missing', packed(b'\x80\x02t.'))
    put('no end', packed(b'\x80\x02}'))
    put('protocol 4', packed(pickle.dumps({'a': 1}, 4)))
    put('a plain pickle', pickle.dumps({'state_dict': {'a': 1}}))
    put('a pickle that calls', pickle.dumps(Call(os.system, f'touch {PWNED}'), 2))
    put('web page', b'<!DOCTYPE html><html>\x1b[31m</html>')
    put('zeros', bytes(100_000))
    put('noise', np.random.default_rng(0).bytes(100_000))
    put('only PK', b'PK\x03\x04')
    for title, content in {
        'a list': [torch.ones(1)],
        'a tensor': torch.ones(1),
        'a number': 3,
        'a dict of numbers': {'state_dict': {'a': 1}},
        'weights in a list': {'state_dict': [torch.ones(1)]},
        'names that are numbers': {'state_dict': {1: torch.ones(1)}},
    }.items():
        buffer = io.BytesIO()
        torch.save(content, buffer)
        put(title, buffer.getvalue())
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode='w') as archive:
        for member in ('sys_info', 'pickle', 'storages', '../../etc/passwd'):
            archive.addfile(tarfile.TarInfo(member), io.BytesIO())
    put('tar', tar.getvalue())
    for title, meta in odd_metas().items():
        buffer = io.BytesIO()
        torch.save({'state_dict': {'a': torch.ones(1)}, 'meta': meta}, buffer)
        put(title, buffer.getvalue())
    return files


def write_special_files(folder: Path) -> dict[str, Path]:
    files = {}
    os.mkfifo(folder / 'fifo.pth')
    files['FIFO'] = folder / 'fifo.pth'
    for device in ('/dev/zero', '/dev/null', '/dev/random', '/proc/self/mem', '/proc/kmsg', '/proc/self/environ'):
        files[f'symlink to {device}'] = link = folder / f'{device.replace("/", "_")}.safetensors'
        link.symlink_to(device)
    (folder / 'loop.pth').symlink_to(folder / 'loop.pth')
    files['symlink to itself'] = folder / 'loop.pth'
    (folder / 'nowhere.pth').symlink_to(folder / 'is not there')
    files['symlink to nothing'] = folder / 'nowhere.pth'
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(folder)  # the name of a socket is short
    server.bind('socket.pth')
    os.chdir(here)
    files['socket'] = folder / 'socket.pth'
    files['a name of 5,000 characters'] = folder / ('a' * 5000)
    files['a name with a zero byte'] = folder / 'a\0b'
    files['a name that steers a terminal'] = folder / '\x1b[31m\nb'
    files['a folder'] = folder
    files['a file as a folder'] = Path(__file__, 'x.pth')
    with (folder / 'sparse.pth').open('wb') as file:
        file.truncate(10**10)
    files['10 GB without content'] = folder / 'sparse.pth'
    return files


def write_safetensors(folder: Path) -> dict[str, Path]:
    files = {}
    entry = {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}

    def put(title: str, header, data: bytes = bytes(4), length: int | None = None):
        header = header if isinstance(header, bytes) else json.dumps(header).encode()
        files[title] = folder / f'{len(files)}.safetensors'
        files[title].write_bytes(struct.pack('<Q', len(header) if length is None else length) + header + data)

    put('st header of 2^63', {'a': entry}, length=2**63)
    put('st header longer than the file', {'a': entry}, length=10**6)
    put('st header empty', b'')
    put('st header no JSON', b'{"a":')
    put('st header a list', [1, 2])
    put('st header deep', b'[' * 100_000)
    put('st header not UTF-8', b'{"\xff\xfe": 1}')
    put('st unknown type', {'a': {**entry, 'dtype': 'OBJ'}})
    put('st offsets beyond', {'a': {**entry, 'data_offsets': [0, 400]}})
    put('st offsets reversed', {'a': {**entry, 'data_offsets': [4, 0]}})
    put('st offsets negative', {'a': {**entry, 'data_offsets': [-4, 0]}})
    put('st overlapping', {'a': entry, 'b': entry})
    put('st shape larger', {'a': {**entry, 'shape': [10**9]}})
    put('st shape of 10^18', {'a': {**entry, 'shape': [10**9, 10**9, 10**9]}})
    put('st shape negative', {'a': {**entry, 'shape': [-1]}})
    put('st without weights', {})
    put('st metadata of numbers', {'__metadata__': {'meta': 3}, 'a': entry})
    for title, meta in {
        'no JSON': '{',
        'a list': '[]',
        'a number': '7',
        'text': '"abc"',
        'deep': '[' * 100_000,
        'deep dict': '{"a":' * 500 + '1' + '}' * 500,
        'a number of a million digits': '{"a": ' + '9' * 10**6 + '}',
        'classes text': '{"dataset_meta": {"classes": "person"}}',
    }.items():
        put(f'st meta {title}', {'__metadata__': {'meta': meta}, 'a': entry})
    return files


def write_folders(folder: Path) -> dict[str, Path]:
    files = {}

    def put(title: str, index, name='model.safetensors.index.json', **more):
        files[title] = where = folder / str(len(files))
        where.mkdir()
        content = index if isinstance(index, bytes) else json.dumps(index).encode()
        (where / name).write_bytes(content)
        for other, data in more.items():
            (where / other.replace('__', '.')).write_bytes(data)
        return where

    for title, index in {
        'empty': {},
        'a list': [1],
        'text': 'abc',
        'a number': 3,
        'null': None,
        'nothing': b'',
        'cut': b'{"weight_map": {',
        'not UTF-8': b'\xff\xfe\x00',
        'deep': b'[' * 100_000,
        'deep dict': b'{"weight_map":' * 50_000,
        'a number of a million digits': b'9' * 10**6,
        'map a list': {'weight_map': ['a']},
        'map text': {'weight_map': 'abc'},
        'map null': {'weight_map': None},
        'map a number': {'weight_map': 5},
        'map empty': {'weight_map': {}},
    }.items():
        put(f'index {title}', index)
    for file in (
        7,
        None,
        ['a'],
        {'a': 'b'},
        True,
        '../a.safetensors',
        '/etc/passwd',
        '..',
        '.',
        '',
        'a\0b',
        'a' * 5000,
        'x/y.safetensors',
        'missing.safetensors',
        'model.safetensors.index.json',
        '\x1b[31m\n',
    ):
        put(f'index names {str(file)[:30]!r}', {'weight_map': {'a': file}})
    where = put('index names a FIFO', {'weight_map': {'a': 'fifo'}})
    os.mkfifo(where / 'fifo')
    where = put('index names a device', {'weight_map': {'a': 'zero'}}, 'pytorch_model.bin.index.json')
    (where / 'zero').symlink_to('/dev/zero')
    where = put('index that is a device', {})
    (where / 'model.safetensors.index.json').unlink()
    (where / 'model.safetensors.index.json').symlink_to('/dev/zero')
    buffer = io.BytesIO()
    torch.save({'a': torch.ones(1)}, buffer)
    for title, config in {
        'a list': b'[]',
        'deep': b'[' * 100_000,
        'cut': b'{',
        'no UTF-8': b'\xff',
        'text': b'"a"',
    }.items():
        put(f'config {title}', buffer.getvalue(), 'pytorch_model.bin', config__json=config)
    where = put('config a device', buffer.getvalue(), 'pytorch_model.bin')
    (where / 'config.json').symlink_to('/dev/zero')
    return files


def write_all(folder: Path) -> dict[str, Path]:
    files = collections.OrderedDict()
    for write in (write_pickles, write_special_files, write_safetensors, write_folders):
        (folder / write.__name__).mkdir()
        files.update(write(folder / write.__name__))
    return files
