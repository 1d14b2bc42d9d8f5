"""Starting from a checkpoint of other classes or of broken weights, without any tool: what the hooks do."""

import pytest
import torch
from toy import config, train

import internimage  # noqa: F401  (registers the hooks)
from internimage.checkpoint import CheckpointError
from internimage.openmmlab.engine import check_classes, check_loader, dataset_classes


@pytest.mark.parametrize(
    ('own', 'theirs'),
    [
        (('cat', 'dog'), ('cat', 'dog')),
        (['traffic light', 'Stop Sign'], ('traffic_light', 'stop-sign ')),
        (('cat', 'dog'), ('cat', 'dog', 'cow')),  # the weights decide
        (None, ('cat', 'dog')),
        (('cat', 'dog'), None),
        ((), ('cat', 'dog')),
    ],
)
def test_classes_that_are_the_same_or_not_to_be_compared(own, theirs):
    for meta in (dict(dataset_meta=dict(classes=theirs)), dict(CLASSES=theirs)):
        assert check_classes(own, dict(meta=meta), 'f.pth') is None


@pytest.mark.parametrize('renamed', [False, True])
@pytest.mark.parametrize(
    ('own', 'first'),
    [(('a', 'c', 'b', 'd'), 1), (('A', 'b', 'D', 'C'), 2), (('d', 'a', 'b', 'c'), 0)],
)
def test_the_same_classes_in_another_order(own, first, renamed):
    checkpoint = dict(meta=dict(dataset_meta=dict(classes=('a', 'b', 'c', 'd'))))
    with pytest.raises(CheckpointError, match=f"f.pth has the same 4 classes in another order: class {first} is '"):
        check_classes(own, checkpoint, 'f.pth', renamed)


def test_other_names():
    checkpoint = dict(meta=dict(CLASSES=('a', 'b', 'c')))
    with pytest.raises(CheckpointError, match="2 of 3 classes have other names: class 1 is 'b' .* and 'x'"):
        check_classes(('a', 'x', 'y'), checkpoint, 'f.pth')
    assert '3 of 3 classes' in check_classes(('x', 'y', 'z'), checkpoint, 'f.pth', renamed=True)


def test_a_few_of_many_names_that_are_spelled_otherwise():
    names = [f'class {i}' for i in range(40)]
    spelled = [*names[:7], 'klass 7', *names[8:]]
    assert check_classes(spelled, dict(meta=dict(CLASSES=names)), 'f.pth') is None
    exchanged = [*names[:7], names[9], names[8], names[7], *names[10:]]
    with pytest.raises(CheckpointError, match='another order'):
        check_classes(exchanged, dict(meta=dict(CLASSES=names)), 'f.pth')
    moved = [*names[:7], names[9], *names[8:9], 'klass', *names[10:]]  # class 9 is at 7
    with pytest.raises(CheckpointError, match='2 of 40 classes have other names'):
        check_classes(moved, dict(meta=dict(CLASSES=names)), 'f.pth')


def test_the_classes_of_a_config():
    from mmdet.datasets import VOCDataset
    from mmengine.config import Config

    stated = dict(type='CocoDataset', metainfo=dict(classes=('a', 'b')))
    inside = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[stated]))
    for dataset, names, is_stated in [
        (stated, ('a', 'b'), True),
        (inside, ('a', 'b'), True),
        (dict(type='VOCDataset'), VOCDataset.METAINFO['classes'], False),
        (dict(type='mmseg.BaseSegDataset'), None, False),
    ]:
        cfg = Config(dict(default_scope='mmdet', test_dataloader=dict(dataset=dataset)))
        assert dataset_classes(cfg, 'test') == names
        assert dataset_classes(cfg, 'test', stated=True) == (names if is_stated else None)
        assert dataset_classes(cfg, 'train') is None


@pytest.fixture
def file(tmp_path):
    train(config(tmp_path / 'work', iterations=2))
    return tmp_path / 'work/iter_2.pth'


def with_classes(work, *classes, **more) -> dict:
    cfg = config(work, iterations=2, optimizer=dict(type='SGD', lr=0.0), **more)
    cfg['train_dataloader']['dataset'].update(classes=classes)
    cfg['model'].setdefault('num_classes', 2)
    return cfg


def test_fine_tuning_on_as_many_other_classes(file, tmp_path):
    """The body is that of the checkpoint, the head is not, and the log says so."""
    runner, _, log = train(with_classes(tmp_path / 'new', 'cow', 'dog', load_from=str(file)))
    old, new = torch.load(file, weights_only=False)['state_dict'], runner.model.state_dict()
    assert torch.equal(new['body.weight'], old['body.weight'])
    assert not torch.equal(new['head.weight'], old['head.weight'])
    assert "1 of 2 classes have other names: class 0 is 'cat' in the checkpoint and 'cow'" in log
    assert '2 start anew: head.bias, head.weight' in log


def test_fine_tuning_on_other_classes_of_a_model_that_does_not_say_their_number(file, tmp_path):
    cfg = with_classes(tmp_path / 'new', 'cow', 'dog', load_from=str(file))
    del cfg['model']['num_classes']
    with pytest.raises(CheckpointError, match='no num_classes in the model'):
        train(cfg)


def test_fine_tuning_on_the_same_classes(file, tmp_path):
    runner, _, log = train(with_classes(tmp_path / 'new', 'Cat', 'DOG', load_from=str(file)))
    old, new = torch.load(file, weights_only=False)['state_dict'], runner.model.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old) and 'start anew' not in log


def test_the_same_classes_in_another_order_start_nothing(file, tmp_path):
    with pytest.raises(CheckpointError, match='in another order'):
        train(with_classes(tmp_path / 'new', 'dog', 'cat', load_from=str(file)))


@pytest.mark.parametrize(('classes', 'words'), [(('dog', 'cat'), 'in another order'), (('x', 'y'), 'on other classes')])
def test_resuming_with_other_classes(classes, words, file, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        train(with_classes(tmp_path / 'work', *classes), resume=file)


@pytest.mark.parametrize('resume', [True, False])
@pytest.mark.parametrize('value', [float('nan'), float('-inf')])
def test_weights_that_are_not_finite(value, resume, file, tmp_path):
    content = torch.load(file, weights_only=False)
    content['state_dict']['head.bias'][1] = value
    torch.save(content, file)
    start = {} if resume else dict(load_from=str(file))
    with pytest.raises(CheckpointError, match='1 of 4 tensors hold NaN or infinite values.*head.bias'):
        train(config(tmp_path / 'work', iterations=4, **start), resume=resume)


def test_a_loader_without_workers():
    loader = dict(num_workers=0, persistent_workers=True, prefetch_factor=2, batch_size=2)
    check_loader(loader)
    assert loader == dict(num_workers=0, persistent_workers=False, batch_size=2)
    loader = dict(num_workers=2, persistent_workers=True, prefetch_factor=2)
    check_loader(loader)
    assert loader == dict(num_workers=2, persistent_workers=True, prefetch_factor=2)


def test_an_empty_loader_stays_empty():
    loader = {}
    check_loader(loader)
    assert loader == {}
