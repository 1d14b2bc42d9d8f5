"""Checkpoints: read safely, loaded completely or not at all, refused with one clear error."""

import collections
import os
import pickle
import re

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import MMDistributedDataParallel
from torch import nn

from internimage.checkpoint import CheckpointError, load_checkpoint_strict, read_checkpoint, read_state_dict


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
