"""Resuming: with the same config as mmengine does it, bit for bit; with another one by that config, and said."""

import re
import shutil

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from toy import config, train

import internimage  # noqa: F401  (registers the hooks)
from internimage.checkpoint import CheckpointError
from internimage.openmmlab.engine import check_resumable, latest_checkpoint

ADAM = dict(type='AdamW', lr=0.02, weight_decay=0.05)


def by_iteration(end: int, **more) -> dict:
    return dict(by_epoch=False, begin=0, end=end, **more)


# Schedules of a training of `n` iterations: {name: n -> param_scheduler}. A warm-up and the rest, and single ones.
BY_ITERATION = {
    'linear, poly': lambda n: [
        dict(type='LinearLR', start_factor=0.1, **by_iteration(3)),
        dict(type='PolyLR', power=0.9, eta_min=1e-3, by_epoch=False, begin=3, end=n + 1),
    ],
    'linear, cosine': lambda n: [
        dict(type='LinearLR', start_factor=0.1, **by_iteration(3)),
        dict(type='CosineAnnealingLR', eta_min=1e-3, by_epoch=False, begin=2, end=n),
    ],
    'multi-step': lambda n: dict(type='MultiStepLR', milestones=[n // 2, n - 2], gamma=0.1, by_epoch=False),
    'step': lambda n: dict(type='StepLR', step_size=n // 3, by_epoch=False),
    'exponential': lambda n: dict(type='ExponentialLR', gamma=1 - 1 / n, by_epoch=False),
    'constant': lambda n: dict(type='ConstantLR', factor=0.5, **by_iteration(n - 2)),
    'one cycle': lambda n: dict(type='OneCycleLR', eta_max=0.3, total_steps=n, by_epoch=False),
    'restarts': lambda n: dict(
        type='CosineRestartLR', periods=[4, n - 4], restart_weights=[1, 0.5], eta_min=0.0, by_epoch=False
    ),
    'the end is the training': lambda n: dict(type='PolyLR', by_epoch=False),
    'momentum': lambda n: [
        dict(type='PolyLR', by_epoch=False, begin=0, end=n),
        dict(type='CosineAnnealingMomentum', eta_min=0.5, by_epoch=False, begin=0, end=n),
    ],
}
BY_EPOCH = {
    'multi-step': lambda n: [
        dict(type='LinearLR', start_factor=0.1, **by_iteration(4)),
        dict(type='MultiStepLR', milestones=[n // 2, n - 1], gamma=0.1, by_epoch=True),
    ],
    'cosine': lambda n: dict(type='CosineAnnealingLR', T_max=n, eta_min=1e-4, by_epoch=True),
    'converted': lambda n: [
        dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=1, end=n, by_epoch=True, convert_to_iter_based=True),
    ],
    'converted steps': lambda n: dict(type='MultiStepLR', milestones=[1, n - 1], convert_to_iter_based=True),
    'one cycle': lambda n: dict(type='OneCycleLR', eta_max=0.3, total_steps=n, convert_to_iter_based=True),
    'the end is the training': lambda n: dict(type='PolyLR', by_epoch=False),
}


def said(log: str) -> list[str]:
    return [line for line in log.splitlines() if 'other settings than those of the config' in line]


def settings(steps: list[dict]) -> list[dict]:
    """Without `fused`, the choice of an implementation, which is not taken from a checkpoint."""
    return [{key: value for key, value in step.items() if key != 'fused'} for step in steps]


def state(runner: Runner) -> list[torch.Tensor]:
    return list(runner.model.state_dict().values())


def equal(one: Runner, other: Runner) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state(one), state(other), strict=True))


@pytest.mark.parametrize(
    ('name', 'optimizer'), [*((name, None) for name in BY_ITERATION), ('linear, poly', ADAM), ('momentum', ADAM)]
)
def test_a_longer_schedule_by_iterations(name, optimizer, tmp_path):
    """After 9 of 9 iterations on to 15: the steps are taken with the values of a training of 15."""
    schedule = BY_ITERATION[name]
    make = lambda n, work: config(tmp_path / work, iterations=n, scheduler=schedule(n), optimizer=optimizer)  # noqa: E731
    train(make(9, 'work'))
    _, steps, log = train(make(15, 'work'), resume=True)
    _, whole, _ = train(make(15, 'whole'))
    assert steps == whole[9:] and len(steps) == 6
    assert len(said(log)) == 1 and 'hold from iteration 9 on' in said(log)[0]
    assert ' -> ' in said(log)[0].split('hold from')[1]


@pytest.mark.parametrize('name', BY_EPOCH)
def test_a_longer_schedule_by_epochs(name, tmp_path):
    schedule = BY_EPOCH[name]
    make = lambda n, work: config(tmp_path / work, epochs=n, batch_size=4, scheduler=schedule(n))  # noqa: E731
    train(make(4, 'work'))
    _, steps, log = train(make(6, 'work'), resume=True)
    _, whole, _ = train(make(6, 'whole'))
    assert steps == whole[12:] and len(steps) == 6  # 3 iterations in each epoch
    assert len(said(log)) == 1 and 'hold from epoch 4 on' in said(log)[0]


@pytest.mark.parametrize('name', BY_EPOCH)
@pytest.mark.parametrize('batches', [(4, 2), (2, 5)])
def test_another_number_of_iterations_in_an_epoch(name, batches, tmp_path):
    """Epochs count: the schedule is where a training with the new batch size is after as many epochs."""
    make = lambda size, work, n=4: config(  # noqa: E731
        tmp_path / work, epochs=n, batch_size=size, scheduler=BY_EPOCH[name](4)
    )
    train(make(batches[0], 'work'))
    resumed, steps, log = train(make(batches[1], 'work'), resume=tmp_path / 'work/epoch_2.pth')
    whole_runner, whole, _ = train(make(batches[1], 'whole'))
    assert steps == whole[len(whole) // 2 :]
    assert resumed.iter == whole_runner.iter
    number = len(whole) // 4
    assert number != 12 // batches[0]
    assert f'iterations count as {2 * number}' in log
    if name != 'cosine':
        assert f'an epoch has {12 // batches[0]} -> {number} iterations' in said(log)[0]


@pytest.mark.parametrize(
    ('name', 'optimizer'), [*((name, None) for name in BY_ITERATION), ('linear, poly', ADAM), ('momentum', ADAM)]
)
def test_an_unchanged_config_by_iterations(name, optimizer, tmp_path):
    """Bit for bit what mmengine itself does, and what a training in one piece gives."""
    make = lambda: config(tmp_path / 'work', iterations=8, scheduler=BY_ITERATION[name](8), optimizer=optimizer)  # noqa: E731
    whole, all_steps, _ = train(make())
    resumed, steps, log = train(make(), resume=tmp_path / 'work/iter_5.pth')
    assert steps == all_steps[5:] and not said(log) and equal(whole, resumed)
    plain, mmengine_steps, _ = train(make(), resume=tmp_path / 'work/iter_5.pth', hooks=())
    assert settings(mmengine_steps) == settings(steps) and equal(plain, resumed)


@pytest.mark.parametrize('name', BY_EPOCH)
def test_an_unchanged_config_by_epochs(name, tmp_path):
    make = lambda: config(tmp_path / 'work', epochs=4, batch_size=5, scheduler=BY_EPOCH[name](4))  # noqa: E731
    whole, all_steps, _ = train(make())
    resumed, steps, log = train(make(), resume=tmp_path / 'work/epoch_2.pth')
    plain, mmengine_steps, _ = train(make(), resume=tmp_path / 'work/epoch_2.pth', hooks=())
    assert steps == all_steps[6:] and not said(log) and equal(whole, resumed)
    assert settings(mmengine_steps) == settings(steps) and equal(plain, resumed)


@pytest.mark.parametrize(
    ('old', 'new', 'text'),
    [
        (dict(type='SGD', lr=0.1, momentum=0.9), dict(type='SGD', lr=0.03, momentum=0.9), 'initial_lr 0.1 -> 0.03'),
        (
            dict(type='SGD', lr=0.1),
            dict(type='SGD', lr=0.1, momentum=0.5, nesterov=True),
            'momentum 0 -> 0.5; nesterov',
        ),
        (ADAM, {**ADAM, 'weight_decay': 0.2}, 'weight_decay 0.05 -> 0.2'),
        (ADAM, {**ADAM, 'betas': (0.8, 0.99)}, 'betas (0.9, 0.999) -> (0.8, 0.99)'),
        (ADAM, {**ADAM, 'eps': 1e-6, 'lr': 0.01}, 'initial_lr 0.02 -> 0.01; eps 1e-08 -> 1e-06'),
    ],
)
def test_other_options_of_the_optimizer(old, new, text, tmp_path):
    make = lambda optimizer, work: config(  # noqa: E731
        tmp_path / work, iterations=6, scheduler=dict(type='PolyLR', by_epoch=False), optimizer=optimizer
    )
    before, _, _ = train(make(old, 'work'))
    _, steps, log = train(make(new, 'work'), resume=tmp_path / 'work/iter_4.pth')
    _, whole, _ = train(make(new, 'whole'))
    assert steps == whole[4:]
    assert len(said(log)) == 1 and text in said(log)[0]


def test_another_learning_rate_without_a_schedule(tmp_path):
    make = lambda lr: config(tmp_path / 'work', iterations=5, optimizer=dict(type='SGD', lr=lr))  # noqa: E731
    train(make(0.1))
    _, steps, log = train(make(0.025), resume=tmp_path / 'work/iter_3.pth')
    assert [step['lr'] for step in steps] == [0.025] * 2
    assert 'lr 0.1 -> 0.025' in said(log)[0]


@pytest.mark.parametrize(
    ('old', 'new', 'text'),
    [
        ('linear, poly', 'multi-step', 'param_scheduler has 2 -> 1 entries'),
        ('step', 'linear, cosine', 'param_scheduler has 1 -> 2 entries'),
        ('step', None, 'param_scheduler has 1 -> 0 entries'),
        (None, 'one cycle', 'param_scheduler has 0 -> 1 entries'),
        ('exponential', 'step', 'param_scheduler[0] StepLR was of another type'),
        ('momentum', 'linear, poly', 'param_scheduler[0] LinearLR was of another type'),
    ],
)
def test_another_kind_or_number_of_schedulers(old, new, text, tmp_path):
    make = lambda name, work: config(  # noqa: E731
        tmp_path / work, iterations=9, scheduler=BY_ITERATION[name](9) if name else None
    )
    train(make(old, 'work'))
    _, steps, log = train(make(new, 'work'), resume=tmp_path / 'work/iter_5.pth')
    _, whole, _ = train(make(new, 'whole'))
    assert [(step['lr'], step['momentum']) for step in steps] == [(step['lr'], step['momentum']) for step in whole[5:]]
    assert text in said(log)[0]


def plateau(**more) -> dict:
    return dict(type='ReduceOnPlateauLR', monitor='score', rule='greater', patience=0, factor=0.5, **more)


@pytest.fixture
def worse(monkeypatch):
    """Each epoch ends with a worse score."""

    class WorseHook(Hook):
        def after_train_epoch(self, runner) -> None:
            for scheduler in runner.param_schedulers:
                if getattr(scheduler, 'need_val_args', False):
                    scheduler.step(dict(score=-float(runner.epoch)))

    monkeypatch.setitem(HOOKS.module_dict, 'WorseHook', WorseHook)
    return ('ResumeHook', 'FineTuneHook', 'WorseHook')


def test_a_schedule_by_the_metrics_goes_on_for_longer(worse, tmp_path):
    make = lambda n, work, **more: config(tmp_path / work, epochs=n, scheduler=[plateau(**more)])  # noqa: E731
    train(make(3, 'work'), hooks=worse)
    _, steps, log = train(make(5, 'work'), resume=True, hooks=worse)
    _, whole, _ = train(make(5, 'whole'), hooks=worse)
    assert [step['lr'] for step in steps] == [step['lr'] for step in whole[18:]]
    assert steps[-1]['lr'] < steps[0]['lr'] < 0.1 and 'end 3 -> 5' in said(log)[0]


@pytest.mark.parametrize('change', ['lr', 'scheduler'])
def test_a_schedule_by_the_metrics_is_not_made_up(change, worse, tmp_path):
    train(config(tmp_path / 'work', epochs=3, scheduler=[plateau()]), hooks=worse)
    warm_up = [dict(type='LinearLR', **by_iteration(3))] if change == 'scheduler' else []
    optimizer = dict(type='SGD', lr=0.2 if change == 'lr' else 0.1, momentum=0.9)
    other = config(tmp_path / 'work', epochs=3, scheduler=[*warm_up, plateau()], optimizer=optimizer)
    with pytest.raises(CheckpointError, match='ReduceOnPlateau.*keep these as they were'):
        train(other, resume=tmp_path / 'work/epoch_2.pth', hooks=worse)


@pytest.mark.parametrize(
    ('old', 'new', 'text'),
    [
        (None, ADAM, 'is of another optimizer than AdamW: it has no betas and no eps'),
        (ADAM, None, 'is of another optimizer than SGD: it has no dampening and no momentum'),
        (ADAM, dict(type='RMSprop', lr=0.1), 'is of another optimizer than RMSprop: it has no alpha and no momentum'),
    ],
)
def test_another_optimizer(old, new, text, tmp_path):
    train(config(tmp_path / 'work', iterations=3, optimizer=old))
    with pytest.raises(CheckpointError, match=text):
        train(config(tmp_path / 'work', iterations=3, optimizer=new), resume=tmp_path / 'work/iter_2.pth')


def test_other_groups_of_parameters(tmp_path):
    train(config(tmp_path / 'work', iterations=3))
    cfg = config(tmp_path / 'work', iterations=3)
    cfg['optim_wrapper']['paramwise_cfg'] = dict(custom_keys={'head': dict(lr_mult=0.1)})
    with pytest.raises(CheckpointError, match='has 1 groups of parameters in its optimizer, the config has 4'):
        train(cfg, resume=tmp_path / 'work/iter_2.pth')


def test_from_iterations_to_epochs(tmp_path):
    train(config(tmp_path / 'work', iterations=5))
    with pytest.raises(CheckpointError, match='training by iterations .* trains by epochs of 6'):
        train(config(tmp_path / 'work', epochs=2), resume=tmp_path / 'work/iter_5.pth')


def test_from_epochs_to_iterations(tmp_path):
    schedule = BY_ITERATION['linear, poly'](20)
    train(config(tmp_path / 'work', epochs=2, scheduler=schedule))  # 6 iterations each
    _, steps, _ = train(config(tmp_path / 'work', iterations=20, scheduler=schedule), resume=True)
    _, whole, _ = train(config(tmp_path / 'whole', iterations=20, scheduler=schedule))
    assert steps == whole[12:]


def test_a_finished_training_and_one_with_a_learning_rate_of_zero_say_so(tmp_path):
    schedule = dict(type='PolyLR', by_epoch=False, begin=0, end=5)
    train(config(tmp_path / 'work', iterations=4, scheduler=schedule))
    _, steps, log = train(config(tmp_path / 'work', iterations=4, scheduler=schedule), resume=True)
    assert not steps and 'the end of this training, 4 of 4 iterations' in log
    _, steps, log = train(config(tmp_path / 'work', iterations=6, scheduler=schedule), resume=True)
    assert [step['lr'] for step in steps] == [0, 0] and 'the learning rate is 0' in log


def test_the_averages_of_the_optimizer_are_kept(tmp_path):
    """Only settings come from the config."""
    before, _, _ = train(config(tmp_path / 'work', iterations=4, optimizer=ADAM))
    kept = before.optim_wrapper.optimizer.state_dict()['state']
    after, _, _ = train(config(tmp_path / 'work', iterations=4, optimizer={**ADAM, 'lr': 0.5}), resume=True)
    for index, entries in after.optim_wrapper.optimizer.state_dict()['state'].items():
        assert all(torch.equal(value, kept[index][key]) for key, value in entries.items())


class TestWhereToGoOn:
    @pytest.fixture
    def work(self, tmp_path):
        train(config(tmp_path / 'work', iterations=3))
        return tmp_path / 'work'

    @pytest.mark.parametrize('old_stays', [False, True], ids=['moved', 'copied'])
    def test_a_moved_folder(self, old_stays, work, tmp_path):
        (shutil.copytree if old_stays else shutil.move)(work, tmp_path / 'new')
        assert latest_checkpoint(tmp_path / 'new') == str(tmp_path / 'new/iter_3.pth')
        runner, steps, _ = train(config(tmp_path / 'new', iterations=5), resume=True)
        assert len(steps) == 2 and runner._load_from == str(tmp_path / 'new/iter_3.pth')

    def test_checkpoints_outside_the_folder(self, work, tmp_path):
        (tmp_path / 'elsewhere').mkdir()
        shutil.move(work / 'iter_3.pth', tmp_path / 'elsewhere/last.pth')
        (work / 'last_checkpoint').write_text(str(tmp_path / 'elsewhere/last.pth') + '\n')
        assert latest_checkpoint(work) == str(tmp_path / 'elsewhere/last.pth')

    @pytest.mark.parametrize('note', [None, '', '/gone/iter_9.pth', r'C:\gone\iter_9.pth'])
    def test_a_note_that_does_not_help(self, note, work):
        (work / 'iter_10.pth').touch()  # ten is more than three
        (work / 'best_score_iter_2.pth').touch()
        (work / 'last_checkpoint').unlink()
        if note is not None:
            (work / 'last_checkpoint').write_text(note)
        assert latest_checkpoint(work) == str(work / 'iter_10.pth')

    def test_a_note_of_a_windows_path(self, work):
        (work / 'last_checkpoint').write_text(r'C:\old\work\iter_2.pth')
        assert latest_checkpoint(work) == str(work / 'iter_2.pth')

    @pytest.mark.parametrize('files', [['best_score_iter_2.pth'], ['epoch_1.pth', 'iter_3.pth'], ['model.pth']])
    def test_unclear(self, files, tmp_path):
        for file in files:
            (tmp_path / file).touch()
        with pytest.raises(
            CheckpointError, match=f'last_checkpoint is not there, and the folder has {files[0]}.*--resume'
        ):
            latest_checkpoint(tmp_path)

    def test_a_note_and_nothing_else(self, tmp_path):
        (tmp_path / 'last_checkpoint').write_text('/gone/iter_9.pth')
        with pytest.raises(CheckpointError, match='names /gone/iter_9.pth, which does not exist.*no checkpoint'):
            train(config(tmp_path, iterations=2), resume=True)

    def test_nothing_to_go_on_from(self, tmp_path):
        _, steps, log = train(config(tmp_path / 'work', iterations=2), resume=True)
        assert len(steps) == 2 and f'no checkpoint in {tmp_path}/work: the training starts from the beginning' in log

    def test_the_best_checkpoint_of_another_folder_stays(self, work, tmp_path):
        """mmengine deletes the file that its note names when a better one comes."""
        checkpoint = torch.load(work / 'iter_3.pth', weights_only=False)
        best = work / 'best_score_iter_2.pth'
        checkpoint['message_hub']['runtime_info'].update(best_ckpt=str(best), best_ckpt_other=str(work / 'gone.pth'))
        torch.save(checkpoint, work / 'iter_3.pth')
        best.touch()
        shutil.copytree(work, tmp_path / 'copy')
        runner, _, _ = train(config(tmp_path / 'copy', iterations=4), resume=True)
        assert runner.message_hub.get_info('best_ckpt') == str(tmp_path / 'copy/best_score_iter_2.pth')
        assert 'best_ckpt_other' not in runner.message_hub.runtime_info


def altered(path, change):
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint)
    target = path.with_name('altered.pth')
    torch.save(checkpoint, target)
    return target


class TestWhatACheckpointMayHold:
    @pytest.fixture
    def file(self, tmp_path):
        train(config(tmp_path / 'work', iterations=3, scheduler=BY_ITERATION['linear, poly'](5)))
        return tmp_path / 'work/iter_3.pth'

    @pytest.mark.parametrize('where', ['resume FILE', 'resume'])
    def test_no_config_in_it_is_executed(self, where, file, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code = 'import os\nos.system("touch pwned.txt")\ngpu_ids = range(0, 1)\n'
        evil = altered(file, lambda c: c['meta'].update(config=code))
        if where == 'resume':
            evil = evil.replace(file)
        runner, steps, _ = train(config(file.parent, iterations=5), resume=evil if where == 'resume FILE' else True)
        assert len(steps) == 2 and not (tmp_path / 'pwned.txt').exists()

    @pytest.mark.parametrize(('text', 'number'), [('gpu_ids = range(0, 8)', 8), ('a = 1\ngpu_ids = [0, 1, 3]\n', 3)])
    def test_another_number_of_gpus(self, text, number, file):
        evil = altered(file, lambda c: c['meta'].update(config=text))
        with pytest.raises(CheckpointError, match=f'was trained on {number} GPUs, this training has 1'):
            train(config(file.parent, iterations=5), resume=evil)

    @pytest.mark.parametrize(
        ('key', 'change'),
        [
            ('meta', lambda c: c['meta'].update(epoch='1')),
            ('meta', lambda c: c['meta'].update(iter=-3)),
            ('meta', lambda c: c['meta'].pop('iter')),
            ('message_hub', lambda c: c['message_hub'].pop('resumed_keys')),
            ('message_hub', lambda c: c['message_hub'].update(runtime_info=[1])),
            ('optimizer', lambda c: c['optimizer'].update(param_groups=[])),
            ('optimizer', lambda c: c['optimizer'].update(param_groups=[3])),
            ('optimizer', lambda c: c['optimizer'].update(state=None)),
            ('optimizer', lambda c: c.update(optimizer=3)),
            ('param_schedulers', lambda c: c.update(param_schedulers='none')),
        ],
    )
    def test_what_mmengine_does_not_write(self, key, change, file):
        checkpoint = torch.load(file, weights_only=False)
        change(checkpoint)
        with pytest.raises(CheckpointError, match=f"f.pth .*what it holds under '{key}' is not what mmengine writes"):
            check_resumable(checkpoint, 'f.pth')

    def test_one_cycle_is_saved_without_its_function(self, tmp_path):
        train(config(tmp_path, iterations=3, scheduler=BY_ITERATION['one cycle'](3)))
        assert torch.load(tmp_path / 'iter_2.pth', weights_only=False)['param_schedulers'][0]['total_steps'] == 3
        assert not re.search(rb'anneal_func', (tmp_path / 'iter_2.pth').read_bytes())
