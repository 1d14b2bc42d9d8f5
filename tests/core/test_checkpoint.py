"""Checkpoints: read safely, loaded completely or not at all, refused with one clear error."""

import collections
import json
import os
import pickle
import re
import resource
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file
from torch import nn

from internimage.checkpoint import (
    CheckpointError,
    check_finite,
    convert_checkpoint,
    dataset_meta,
    load_checkpoint_strict,
    read_checkpoint,
    read_state_dict,
    write_checkpoint,
)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'weights.pth'


class Dangerous:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ('/tmp/internimage-was-hacked',)


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize('wrap', [dict, lambda w: {'state_dict': w}, lambda w: {'model': w, 'epoch': 3}])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_every_layout_loads_the_same_weights(file, wrap, prefix, zipped):
    source, target = small_model(), small_model()
    nn.init.ones_(source[0].weight)
    weights = {prefix + name: value for name, value in source.state_dict().items()}
    torch.save(wrap(weights), file, _use_new_zipfile_serialization=zipped)
    load_checkpoint_strict(target, file)
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)
    assert set(read_state_dict(file)) == set(source.state_dict())


def test_the_rest_of_the_checkpoint_is_returned(file):
    torch.save({'state_dict': small_model().state_dict(), 'meta': {'dataset_meta': {'classes': ('a', 'b')}}}, file)
    assert load_checkpoint_strict(small_model(), file)['meta'] == {'dataset_meta': {'classes': ('a', 'b')}}


def test_what_openmmlab_stores_is_safe_to_load(file):
    history = HistoryBuffer()
    history.update(0.5)
    history.update(2, count=3)
    stored = {
        'state_dict': small_model().state_dict(),
        'message_hub': {'log_scalars': collections.OrderedDict(loss=history), 'resumed_keys': {'loss': True}},
        'meta': {'seed': np.int64(7), 'lr': np.float64(0.1), 'palette': np.arange(6, dtype=np.uint8).reshape(2, 3)},
    }
    torch.save(stored, file)
    loaded = read_checkpoint(file)
    assert loaded['message_hub']['log_scalars']['loss'].max() == 2
    assert loaded['meta']['seed'] == 7 and loaded['meta']['lr'] == 0.1
    np.testing.assert_array_equal(loaded['meta']['palette'], stored['meta']['palette'])


@pytest.mark.parametrize('core', ['core', '_core'])
def test_numbers_of_both_numpy_generations_load(file, core):
    """numpy 1 wrote numpy.core.multiarray.scalar, numpy 2 writes numpy._core.multiarray.scalar."""
    torch.save({'state_dict': {'a': torch.ones(1)}, 'lr': np.float64(2.5)}, file, _use_new_zipfile_serialization=False)
    raw = file.read_bytes()
    changed = re.sub(rb'numpy\._?core\.multiarray', f'numpy.{core}.multiarray'.encode(), raw)
    assert f'numpy.{core}.multiarray'.encode() in changed
    file.write_bytes(changed)
    assert read_checkpoint(file)['lr'] == 2.5


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_an_unsafe_file_is_refused_by_the_name_of_the_class(file, zipped):
    torch.save({'state_dict': {'a': torch.ones(1)}, 'x': Dangerous()}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r'weights.pth is not safe to load: it holds posix.mkdir'):
        read_checkpoint(file)
    assert not os.path.exists('/tmp/internimage-was-hacked')


def test_an_unsafe_file_says_how_to_allow_its_class(file):
    class Strange:
        pass

    Strange.__module__, Strange.__qualname__ = 'strange_package', 'Strange'
    module = types.ModuleType('strange_package')
    module.Strange = Strange
    sys.modules['strange_package'] = module
    try:
        torch.save({'state_dict': {'a': torch.ones(1)}, 'x': Strange()}, file)
        with pytest.raises(CheckpointError, match=r'add_safe_globals\(\[strange_package.Strange\]\)'):
            read_checkpoint(file)
        with torch.serialization.safe_globals([Strange]):
            assert isinstance(read_checkpoint(file)['x'], Strange)
    finally:
        del sys.modules['strange_package']


def test_mmengine_does_not_fall_back_to_unsafe_loading(file):
    torch.save({'state_dict': {'a': torch.ones(1)}, 'x': Dangerous()}, file)
    with pytest.raises(CheckpointError, match='is not safe to load'):
        CheckpointLoader.load_checkpoint(str(file))
    assert not os.path.exists('/tmp/internimage-was-hacked')


def test_getattr_is_no_way_around(file):
    class Lookup:
        def __reduce__(self):
            return getattr, (HistoryBuffer, 'register_statistics')

    torch.save({'state_dict': {'a': torch.ones(1)}, 'x': Lookup()}, file)
    with pytest.raises(CheckpointError, match='not safe to load: it holds .*getattr'):
        read_checkpoint(file)


def test_a_file_that_does_not_exist(file):
    with pytest.raises(CheckpointError, match=r'checkpoint .*weights\.pth does not exist'):
        read_checkpoint(file)
    with pytest.raises(CheckpointError, match='is a folder without model.safetensors or pytorch_model.bin'):
        read_checkpoint(file.parent)


@pytest.mark.parametrize('content', [b'', b'<!DOCTYPE html>', b'hello world', pickle.dumps([1, 2])])
def test_a_file_that_is_not_a_checkpoint(file, content):
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r'weights\.pth is not a checkpoint or is cut short') as caught:
        read_checkpoint(file)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize('part', [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_short(file, part, zipped):
    torch.save({'state_dict': {'a': torch.ones(1000)}}, file, _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(CheckpointError, match='cut short'):
        read_checkpoint(file)


@pytest.mark.parametrize('content', [{'epoch': 3}, {'state_dict': {}}, [torch.ones(1)], torch.ones(2)])
def test_a_file_without_weights(file, content):
    torch.save(content, file)
    with pytest.raises(CheckpointError, match='holds no weights'):
        read_checkpoint(file)


def test_a_checkpoint_of_another_model_changes_nothing(file):
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: value + 1 for name, value in model.state_dict().items()}
    del weights['0.bias'], weights['1.weight']
    weights['2.weight'] = torch.zeros(5, 4, 1, 1)
    weights.update({f'head.{index}': torch.zeros(1) for index in range(5)})
    torch.save(weights, file)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint_strict(model, file)
    message = str(caught.value)
    assert '2 missing: 0.bias, 1.weight' in message
    assert '5 unexpected: head.0, head.1, head.2, ...' in message
    assert '1 of another shape: 2.weight (5, 4, 1, 1) (the model has (2, 4, 1, 1))' in message
    assert '\n' not in message
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_num_batches_tracked_may_be_missing(file):
    weights = small_model().state_dict()
    del weights['1.num_batches_tracked']
    torch.save(weights, file)
    load_checkpoint_strict(small_model(), file)


def test_a_wrapped_model_takes_the_names_of_the_model_inside(file):
    model = small_model()
    nn.init.ones_(model[0].weight)
    torch.save(model.state_dict(), file)
    wrapped = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = small_model()
    load_checkpoint_strict(wrapped, file)
    assert torch.equal(wrapped.module[0].weight, model[0].weight)


# Other forms


def same(state_dict, model) -> bool:
    own = model.state_dict()
    return state_dict.keys() == own.keys() and all(torch.equal(value, own[name]) for name, value in state_dict.items())


def test_safetensors_with_classes(file):
    model, path = small_model(), file.with_suffix('.safetensors')
    meta = {'dataset_meta': {'classes': ('a', 'b'), 'palette': [[0, 0, 0], [9, 9, 9]]}, 'seed': np.int64(3)}
    write_checkpoint(path, model.state_dict(), meta)
    read = read_checkpoint(path)
    assert same(read['state_dict'], model)
    assert dataset_meta(read) == {'classes': ['a', 'b'], 'palette': [(0, 0, 0), (9, 9, 9)]}


def test_tensors_that_share_memory_are_written_as_two(file):
    shared = torch.arange(6.0)
    path = file.with_suffix('.safetensors')
    write_checkpoint(path, {'a': shared, 'b': shared.view(2, 3).T})
    read = read_state_dict(path)
    assert torch.equal(read['a'], shared) and torch.equal(read['b'], shared.view(2, 3).T)


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.module.', 'module.model.', 'internimage.'])
def test_prefixes_of_wrappers(file, prefix):
    torch.save({'state_dict': {prefix + name: value for name, value in small_model().state_dict().items()}}, file)
    assert same(read_state_dict(file), small_model())


def test_a_prefix_that_not_all_names_have_is_a_name(file):
    torch.save({'model.weight': torch.ones(1), 'head.weight': torch.ones(1)}, file)
    assert set(read_state_dict(file)) == {'model.weight', 'head.weight'}


class TestAverages:
    plain = {'a.b': torch.zeros(1)}
    average = {'a.b': torch.ones(1)}

    @pytest.mark.parametrize('key', ['state_dict_ema', 'model_ema', 'ema_state_dict'])
    def test_alone_they_are_the_weights(self, file, key):
        torch.save({key: {'steps': torch.tensor(5), 'module.a.b': torch.ones(1)}, 'epoch': 1}, file)
        assert read_checkpoint(file)['epoch'] == 1
        assert read_state_dict(file) == {'a.b': torch.ones(1)}

    @pytest.mark.parametrize('keys', [('state_dict', 'state_dict_ema'), ('model', 'model_ema')])
    def test_beside_others_they_are_taken_on_request(self, file, keys):
        torch.save(dict(zip(keys, (self.plain, self.average), strict=True)), file)
        assert read_checkpoint(file)['state_dict'] == self.plain
        assert read_checkpoint(file, ema=True)['state_dict'] == self.average

    def test_mmengine_keeps_them_in_place_of_the_weights(self, file):
        torch.save({'state_dict': self.average, 'ema_state_dict': {'steps': torch.tensor(5), **self.plain}}, file)
        for ema in (False, True):
            assert read_checkpoint(file, ema=ema)['state_dict'] == self.average
        assert 'steps' in read_checkpoint(file)['ema_state_dict']  # for EMAHook, which goes on with it

    def test_mmcv_kept_a_second_set_as_buffers(self, file):
        torch.save({'state_dict': {'a.b': torch.ones(1), 'ema_a_b': torch.zeros(1), 'ema_c': torch.ones(2)}}, file)
        assert set(read_state_dict(file)) == {'a.b', 'ema_c'}

    def test_none_there(self, file):
        torch.save({'state_dict': self.plain}, file)
        with pytest.raises(CheckpointError, match='holds no averaged weights: none of state_dict_ema, '):
            read_checkpoint(file, ema=True)


def test_deepspeed_and_the_settings_of_official_classification(file):
    """The latter are of a class of yacs, which need not be installed."""
    module = types.ModuleType('yacs.config')
    module.CfgNode = type('CfgNode', (dict,), {'__module__': 'yacs.config', '__qualname__': 'CfgNode'})
    sys.modules.update({'yacs': types.ModuleType('yacs'), 'yacs.config': module})
    try:
        settings = module.CfgNode(DATA=module.CfgNode(IMG_SIZE=224))
        settings.__dict__['__immutable__'] = True
        torch.save({'module': small_model().state_dict(), 'config': settings}, file)
    finally:
        del sys.modules['yacs.config'], sys.modules['yacs']
    read = read_checkpoint(file)
    assert same(read['state_dict'], small_model())
    assert read['config'] == {'DATA': {'IMG_SIZE': 224}}


class TestHuggingFace:
    """Folders as `save_pretrained` of the official repositories writes them."""

    weights = {
        'model.patch_embed.conv1.weight': torch.ones(2),
        'model.levels.0.blocks.0.layer_scale1': torch.ones(3),
        'model.levels.0.blocks.0.layer_scale2': torch.ones(4),
    }
    ours = {'patch_embed.conv1.weight': 2, 'levels.0.blocks.0.gamma1': 3, 'levels.0.blocks.0.gamma2': 4}

    def check(self, folder):
        (folder / 'config.json').write_text(json.dumps({'model_type': 'internimage'}))
        read = read_checkpoint(folder)
        assert {name: len(value) for name, value in read['state_dict'].items()} == self.ours
        assert read['config'] == {'model_type': 'internimage'}

    def test_safetensors(self, tmp_path):
        save_file(self.weights, tmp_path / 'model.safetensors', {'format': 'pt'})
        self.check(tmp_path)

    def test_pytorch(self, tmp_path):
        torch.save(self.weights, tmp_path / 'pytorch_model.bin')
        self.check(tmp_path)

    @pytest.mark.parametrize('index', ['model.safetensors', 'pytorch_model.bin'])
    def test_shards(self, tmp_path, index):
        stem, suffix = index.split('.')
        shards = {}
        for number, (name, value) in enumerate(self.weights.items()):
            shards[name] = f'{stem}-{number}.{suffix}'
            save = save_file if suffix == 'safetensors' else torch.save
            save({name: value}, tmp_path / shards[name])
        (tmp_path / f'{index}.index.json').write_text(json.dumps({'weight_map': shards}))
        self.check(tmp_path)
        (tmp_path / shards['model.patch_embed.conv1.weight']).unlink()
        with pytest.raises(CheckpointError, match=r'-0\.\w+ does not exist'):
            read_checkpoint(tmp_path)

    def test_an_index_leads_nowhere_else(self, tmp_path):
        index = tmp_path / 'model.safetensors.index.json'
        index.write_text(json.dumps({'weight_map': {'a': '../other.safetensors'}}))
        with pytest.raises(CheckpointError, match='not a file of its folder'):
            read_checkpoint(tmp_path)
        index.write_text('{')
        with pytest.raises(CheckpointError, match='index.json cannot be read'):
            read_checkpoint(tmp_path)

    def test_a_broken_file(self, tmp_path):
        (tmp_path / 'model.safetensors').write_bytes(b'abc')
        with pytest.raises(CheckpointError, match='not a checkpoint or is cut short'):
            read_checkpoint(tmp_path)


# Reading and writing


def test_a_file_without_read_permission(file, monkeypatch):
    torch.save(small_model().state_dict(), file)
    file.chmod(0)
    if os.access(file, os.R_OK):  # root reads everything

        def refuse(self, *args):
            raise PermissionError(13, 'Permission denied', str(self))

        monkeypatch.setattr(type(file), 'open', refuse)
    with pytest.raises(CheckpointError, match=r'weights\.pth cannot be read: Permission denied'):
        read_checkpoint(file)


@pytest.fixture
def disk_full():
    """No file can grow beyond 100 kB; the system call that writes more fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_nothing_is_left_when_the_disk_is_full(file, suffix, disk_full):
    target = file.with_suffix(suffix)
    write_checkpoint(target, {'a': torch.ones(1)})
    with pytest.raises(CheckpointError, match=rf'weights\{suffix} cannot be written: .*') as caught:
        write_checkpoint(target, {'a': torch.zeros(100_000)})
    assert '\n' not in str(caught.value)
    assert [path.name for path in file.parent.iterdir()] == [target.name]
    assert torch.equal(read_state_dict(target)['a'], torch.ones(1))


def test_what_cannot_be_written(file):
    for path, message in [(file.with_suffix('.bin'), 'must end in .pth or .safetensors'), ('/proc/w.pth', 'cannot be')]:
        with pytest.raises(CheckpointError, match=message):
            write_checkpoint(path, {'a': torch.ones(1)})


def test_converting_to_the_same_file(file):
    torch.save({'state_dict': {'module.a': torch.ones(50_000)}, 'optimizer': {'state': 1}}, file)
    assert convert_checkpoint(file, file) == 1
    assert torch.equal(read_state_dict(file)['a'], torch.ones(50_000))
    assert 'optimizer' not in read_checkpoint(file)


MEASURE = """
import re, sys, torch
from pathlib import Path
from internimage.checkpoint import load_checkpoint_strict, read_checkpoint

def private():
    return int(re.search(r'RssAnon:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024

model = torch.nn.Linear(8192, 4096, bias=False)  # 128 MB
torch.nn.init.zeros_(model.weight)
start = private()
checkpoint = read_checkpoint(sys.argv[1])
print(private() - start)
load_checkpoint_strict(model, sys.argv[1])
print(private() - start, model.weight.sum().item() == 8192 * 4096)
"""


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_weights_are_never_twice_in_memory(file, suffix):
    """Read, they are pages of the file; loaded, they are in the model alone."""
    path = file.with_suffix(suffix)
    write_checkpoint(path, {'weight': torch.ones(4096, 8192)})
    done = subprocess.run([sys.executable, '-c', MEASURE, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read, loaded, same = done.stdout.split()[-3:]
    assert int(read) < 16 and int(loaded) < 16 and same == 'True', done.stdout  # MB


def test_an_optimizer_does_not_hang_on_the_file(file):
    torch.save({'state_dict': {'a': torch.ones(1)}, 'optimizer': {'state': {0: {'m': torch.ones(50_000)}}}}, file)
    read = CheckpointLoader.load_checkpoint(str(file))
    with file.open('r+b') as content:
        content.truncate(0)
    assert read['optimizer']['state'][0]['m'].sum() == 50_000


# Values and names


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_weights_that_are_not_finite(value, dtype):
    weights = {'fine': torch.ones(3), 'number': torch.tensor(7), 'empty': torch.zeros(0), 'flag': torch.tensor(True)}
    check_finite(weights, 'a.pth')
    broken = torch.ones(2, 3, dtype=dtype).T.clone()
    broken[1, 1] = value
    weights |= {'b\x1b[31m': broken, 'c': broken[1:, 1:]}
    with pytest.raises(
        CheckpointError, match=r'a\.pth: 2 of 6 tensors hold NaN or infinite values, the first is b\?\['
    ):
        check_finite(weights, 'a.pth')


def test_large_weights_are_finite():
    """Sums of them are not."""
    check_finite({'a': torch.full((1000,), 60000.0, dtype=torch.float16), 'b': torch.full((9,), 3e38)}, 'a.pth')
    check_finite({'a': torch.ones(3, dtype=torch.float8_e4m3fn)}, 'a.pth')
    with pytest.raises(CheckpointError, match='1 of 1'):
        check_finite({'a': torch.tensor([1, float('nan')]).to(torch.float8_e4m3fn)}, 'a.pth')


def test_threads_read_at_the_same_time(tmp_path):
    """What torch may call is a list of the whole process."""
    files = [tmp_path / f'{number}.pth' for number in range(6)]
    for number, file in enumerate(files):
        torch.save(
            {'state_dict': {'a': torch.full((3,), number)}, 'lr': np.float64(number), 'log': HistoryBuffer()}, file
        )
    found = {}

    def read(number):
        for _ in range(20):
            content = read_checkpoint(files[number])
            assert content['lr'] == number and isinstance(content['log'], HistoryBuffer)
        found[number] = content['state_dict']['a'].tolist()

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [number] * 3 for number in range(6)}


def test_what_the_user_allowed_stays_allowed(file):
    torch.save({'state_dict': {'a': torch.ones(1)}, 'lr': np.float64(1)}, file)
    with torch.serialization.safe_globals([np.ndarray, np.dtype]):
        read_checkpoint(file)
        assert {np.ndarray, np.dtype} <= set(torch.serialization.get_safe_globals())
    assert np.ndarray not in torch.serialization.get_safe_globals()


def test_what_torch_save_writes_is_read(file):
    """Every plain kind of value, once."""
    shared = torch.arange(12.0)
    stored = {
        'weights': {
            'view': shared[2:8].view(2, 3).T,
            'same': shared,
            'scalar': torch.tensor(3),
            'none': torch.zeros(0, 3),
        },
        'kinds': {
            str(dtype): torch.ones(2).to(dtype)
            for dtype in (torch.bool, torch.uint8, torch.int16, torch.uint16, torch.float8_e5m2, torch.complex64)
        },
        'expanded': torch.ones(1).expand(5),
        'parameter': nn.Parameter(torch.ones(2)),
        'numpy': [np.zeros((2, 0)), np.arange(6).reshape(2, 3).T, np.float32(3), np.bool_(True), np.array(1 + 2j)],
        'python': [None, True, 1, 2**70, 1.5, 'ä', b'a\xff', b'', (1, (2,)), {3}, 3j, collections.Counter('abca')],
        'torch': [torch.Size([2, 3]), torch.float16, torch.device('cpu')],
        'ordered': collections.OrderedDict(b=1, a=2),
    }
    for zipped in (True, False):
        if not zipped:  # which has no storage without a type
            del stored['kinds']['torch.uint16'], stored['kinds']['torch.float8_e5m2']
        torch.save({'state_dict': {'a': torch.ones(1)}, **stored}, file, _use_new_zipfile_serialization=zipped)
        read = read_checkpoint(file)
        del read['state_dict']
        assert repr(read) == repr(stored)
    torch.save({'state_dict': {'a': torch.ones(1)}, 'swapped': np.arange(3, dtype='>i4')}, file)
    assert read_checkpoint(file)['swapped'].tolist() == [0, 1, 2]
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3, 2, 2)).sum().backward()
    optimizer.step()
    torch.save({'state_dict': model.state_dict(), 'optimizer': optimizer.state_dict()}, file)
    assert repr(read_checkpoint(file)['optimizer']) == repr(optimizer.state_dict())


@pytest.mark.parametrize('wrap', [nn.DataParallel, lambda model: nn.DataParallel(nn.DataParallel(model))])
def test_every_wrapper_is_seen_through(file, wrap):
    model = small_model()
    torch.save(model.state_dict(), file)
    wrapped = wrap(small_model())
    nn.init.zeros_(next(wrapped.parameters()))
    load_checkpoint_strict(wrapped, file)
    assert torch.equal(next(wrapped.parameters()), model[0].weight)


def test_a_model_that_has_a_module_beside_others_is_no_wrapper(file):
    model = nn.Module()
    model.module, model.head = nn.Linear(2, 3), nn.Linear(3, 1)
    torch.save(model.state_dict(), file)
    assert set(load_checkpoint_strict(model, file)['state_dict']) == set(model.state_dict())


def test_names_in_a_file_do_not_steer_the_terminal(file):
    torch.save({'\x1b[2J' + 'a' * 10_000: torch.ones(1), 'b\nc': torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match='2 unexpected') as caught:
        load_checkpoint_strict(small_model(), file)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
