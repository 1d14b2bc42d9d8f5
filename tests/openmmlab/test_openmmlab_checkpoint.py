"""What mmengine does with a checkpoint later runs nothing and deletes nothing that the file names."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

from internimage.checkpoint import CheckpointError
from internimage.openmmlab.checkpoint import harmless_state

ROOT = Path(__file__).resolve().parents[2]
CODE = "open('internimage-was-hacked', 'w').close()\na = 1\n"


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.layer(inputs).mean()) if mode == 'loss' else [self.layer(inputs)]


class Rising(BaseMetric):
    """Better with every evaluation."""

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        Rising.score = getattr(Rising, 'score', 0) + 1
        return {'score': Rising.score}


def train(folder, epochs, resume=None):
    loader = dict(dataset=[torch.ones(2)] * 4, batch_size=2, sampler=dict(type=DefaultSampler, shuffle=False))
    runner = Runner(
        Line(),
        str(folder),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=[Rising()],
        val_cfg={},
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        param_scheduler=dict(type='MultiStepLR', milestones=[1, 2], by_epoch=True),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1, save_best='score', rule='greater')
        ),
        load_from=resume,
        experiment_name=f'{folder.name}_{epochs}_{resume is None}_{os.urandom(4).hex()}',
        resume=resume is not None,
        log_level='ERROR',
    )
    runner.train()
    return runner


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(tmp_path / 'first', 2)
    return tmp_path / 'first' / 'epoch_2.pth'


def test_a_training_goes_on(trained, tmp_path):
    runner = train(tmp_path / 'first', 3, str(trained))
    assert runner.epoch == 3
    history = runner.message_hub.log_scalars['train/loss']
    assert isinstance(history, HistoryBuffer) and len(history.data[0]) == 6
    assert history.mean() == pytest.approx(history.data[0].mean())


def test_what_a_hostile_checkpoint_names_is_not_run_and_not_deleted(trained, tmp_path, monkeypatch):
    victims = [tmp_path / 'victim.txt', tmp_path / 'victim', tmp_path / 'epoch_..']
    victims[0].write_text('here')
    victims[1].mkdir()
    victims[2].mkdir()
    for victim in (tmp_path / 'victim.txt', tmp_path / 'victim'):
        content = torch.load(trained, weights_only=False)
        content['meta'].update(config=CODE, cfg=CODE, experiment_name='../../x', hook_msgs={'last_ckpt': str(victim)})
        info = content['message_hub']['runtime_info']
        info.update(
            cfg=CODE,
            best_ckpt=str(victim),
            last_ckpt=str(victim),
            best_score=0.0,
            keep_ckpt_ids=['../../victim.txt', 1, 2],
        )
        hostile = tmp_path / 'hostile.pth'
        torch.save(content, hostile)
        runner = train(tmp_path / 'second', 3, str(hostile))
        assert runner.epoch == 3
        assert all(path.exists() for path in victims)
    assert not list(tmp_path.rglob('internimage-was-hacked'))


def test_no_text_is_left_where_mmengine_runs_it(trained):
    content = torch.load(trained, weights_only=False)
    assert content['meta']['cfg'] and content['message_hub']['runtime_info']['cfg']
    read = CheckpointLoader.load_checkpoint(str(trained))
    assert not {'cfg', 'config'} & read['meta'].keys() and 'cfg' not in read['message_hub']['runtime_info']
    assert read['meta']['config_text'] == content['meta']['cfg']
    assert 'cfg' not in read['message_hub']['resumed_keys']


@pytest.mark.parametrize(
    'path, kept',
    [
        ('/old/work_dirs/x/best_coco_bbox_mAP_epoch_3.pth', 'best_coco_bbox_mAP_epoch_3.pth'),
        (r'D:\work_dirs\x\best_mIoU_iter_3.pth', 'best_mIoU_iter_3.pth'),
        ('/etc/passwd', None),
        ('epoch_3.pth', None),
        ('best_', None),
        ('best_x.pth/..', None),
        ('..', None),
        ('', None),
        (None, None),
        (3, None),
        (['best_a.pth'], None),
    ],
)
def test_of_the_best_checkpoint_the_name_is_kept(path, kept):
    info = {'best_ckpt': path, 'best_ckpt_a': path, 'best_score': 'high', 'best_score_a': np.float32(0.5), 'iter': 4}
    read = harmless_state({'message_hub': {'runtime_info': info}})['message_hub']['runtime_info']
    assert (read.get('best_ckpt'), read.get('best_ckpt_a')) == (kept, kept)
    assert 'best_score' not in read and read['best_score_a'] == 0.5 and read['iter'] == 4


@pytest.mark.parametrize(
    'part, says',
    [
        ({'meta': []}, 'meta is a list, not a dict'),
        ({'meta': 'text'}, "meta is str 'text'"),
        ({'meta': {'epoch': '3'}}, 'meta: epoch is 3, not a whole number'),
        ({'meta': {'iter': -1}}, 'meta: iter is -1'),
        ({'meta': {'iter': 1.5}}, 'meta: iter is 1.5'),
        ({'meta': {'epoch': True}}, 'meta: epoch is True'),
        ({'meta': {'seed': '\x1b[31m'}}, r'meta: seed is \?\[31m'),
        ({'message_hub': 3}, 'message_hub is a int'),
        ({'message_hub': {'log_scalars': []}}, 'log_scalars is a list'),
        ({'message_hub': {'runtime_info': {'epoch': 2**70}}}, 'message_hub: epoch is 11805'),
        ({'optimizer': [1]}, 'optimizer is a list'),
    ],
)
def test_a_state_that_cannot_be_gone_on_with(tmp_path, part, says):
    torch.save({'state_dict': {'a': torch.ones(1)}, **part}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=rf'a\.pth.*{says}'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))


@pytest.mark.parametrize('optimizer', [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad])
@pytest.mark.parametrize('several', [False, True])
def test_a_state_of_other_shapes_does_not_reach_the_fused_step(optimizer, several, tmp_path):
    """It would write past the end of it: torch's fused optimizers do not look."""
    model = nn.Linear(512, 512)
    options = dict(momentum=0.9) if optimizer is torch.optim.SGD else {}
    first, second = (optimizer(model.parameters(), lr=0.1, **options) for _ in range(2))
    model(torch.ones(1, 512)).sum().backward()
    first.step()
    state = first.state_dict()
    for group in state['param_groups']:
        group.update(fused=True, foreach=False)
    for values in state['state'].values():
        values.update({key: torch.ones(1) for key, x in values.items() if torch.is_tensor(x) and x.ndim})
    content = {'state_dict': {'a': torch.ones(1)}, 'optimizer': {'a': state} if several else state}
    torch.save(content, tmp_path / 'a.pth')
    read = CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))['optimizer']
    second.load_state_dict(read['a'] if several else read)
    with pytest.raises(RuntimeError, match='size|shape'):
        second.step()


def test_what_is_not_a_log_is_left_out():
    hub = {
        'log_scalars': {'loss': HistoryBuffer(), '\x1b[31m': HistoryBuffer(), 'x': 3, 4: HistoryBuffer()},
        'runtime_info': {'keep_ckpt_ids': [1, '2', -3, True, 5], 7: 8},
        'resumed_keys': {'loss': 1, 'x': True, 'y': True},
    }
    read = harmless_state({'message_hub': hub})['message_hub']
    assert list(read['log_scalars']) == ['loss']
    assert read['runtime_info'] == {'keep_ckpt_ids': [1, 5]}
    assert read['resumed_keys'] == {'loss': True}


def test_logs_do_not_change_what_mmengine_computes(tmp_path):
    """A HistoryBuffer is stored with the functions of its class: those of the file are not taken."""
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    history.statistics_methods = {}
    saved = dict(HistoryBuffer._statistics_methods)
    HistoryBuffer._statistics_methods['mean'] = HistoryBuffer.max
    try:
        torch.save({'state_dict': {'a': torch.ones(1)}, 'log': history}, tmp_path / 'a.pth')
    finally:
        HistoryBuffer._statistics_methods.update(saved)
    read = CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))['log']
    assert read.statistics('mean') == HistoryBuffer([1, 3], [1, 1]).statistics('mean') - 0.5 == 1.5


@pytest.mark.parametrize('scheme', ['torchvision', 'modelzoo', 'open-mmlab', 'openmmlab', 'mmcls'])
def test_names_are_read_in_the_same_way(scheme, tmp_path, monkeypatch):
    class Dangerous:
        def __reduce__(self):
            return eval, (CODE.split('\n')[0],)

    file = tmp_path / 'a.pth'
    torch.save({'state_dict': {'backbone.a': torch.ones(1)}, 'x': Dangerous()}, file)
    for table in ('get_torchvision_models', 'get_external_models', 'get_mmcls_models'):
        monkeypatch.setattr(f'internimage.openmmlab.checkpoint.{table}', lambda: {'net': str(file)})
    with pytest.raises(CheckpointError, match='it holds builtins.eval'):
        CheckpointLoader.load_checkpoint(f'{scheme}://net')
    torch.save({'state_dict': {'backbone.a': torch.ones(1)}}, file)
    weights = CheckpointLoader.load_checkpoint(f'{scheme}://net')['state_dict']
    assert list(weights) == (['a'] if scheme == 'mmcls' else ['backbone.a'])
    with pytest.raises(CheckpointError, match='knows no address for nett'):
        CheckpointLoader.load_checkpoint(f'{scheme}://nett')


ALONE = """
import sys, types
package = types.ModuleType('internimage')
package.__path__ = [sys.argv[1]]
sys.modules['internimage'] = package
for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg'):
    sys.modules[name] = None  # importing it fails
from internimage.checkpoint import load_checkpoint_strict, read_checkpoint
import torch
content = read_checkpoint(sys.argv[2])
print(sorted(content['message_hub']['log_scalars']['train/loss']))
model = torch.nn.Module()
model.layer = torch.nn.Linear(2, 1)
load_checkpoint_strict(torch.nn.DataParallel(model), sys.argv[2])
"""


def test_without_openmmlab(trained):
    """The state of a training, too, can be read without it; of logged values the numbers remain."""
    done = subprocess.run(
        [sys.executable, '-c', ALONE, str(ROOT / 'internimage'), str(trained)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split('\n')[0] == "['count_history', 'log_history', 'max_length']"
