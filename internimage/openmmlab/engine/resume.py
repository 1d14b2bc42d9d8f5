"""Resuming a training: the state is that of the checkpoint, the settings are those of the config."""

import inspect
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from ...checkpoint import CheckpointError, check_finite
from .classes import check_classes

# What a scheduler of mmengine keeps of the course of a training. Everything else in it follows from the config.
COURSE = {'last_step', '_global_step', '_last_value', 'best', 'num_bad_epochs', 'cooldown_counter'}
# Neither: the values of the parameter groups, which are compared there, and what only prints.
NOT_COMPARED = {'base_values', 'verbose', 'optimizer'}


@HOOKS.register_module()
class ResumeHook(Hook):
    """`resume` of a Runner with another config, another data set or a moved work folder.

    The checkpoint gives the weights, the optimizer's averages, iteration, epoch, logs and seed. The config gives the
    schedule (every scheduler of mmengine), the learning rate and the other options of the optimizer: where they differ
    from the checkpoint's, which mmengine alone would use, the log says so in one line, and the schedule is where a
    training with this config would be after as many iterations or, in a training by epochs, after as many epochs. With
    an unchanged config everything is as mmengine resumes it, bit for bit.

    `internimage train` has this hook always, and so have the configs of this project.

    Raises:
        CheckpointError: the checkpoint has no state of a training, or of another optimizer, other parameter groups,
            other classes, another kind of loop; or a schedule that follows the metrics (ReduceOnPlateau) was changed.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        if not (runner._resume and runner._load_from is None and _is_training(runner)):
            return
        runner._load_from = latest_checkpoint(runner.work_dir)
        if runner._load_from is None:
            runner.logger.info(f'no checkpoint in {runner.work_dir}: the training starts from the beginning')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not (runner._resume and _is_training(runner)):
            return
        path = runner._load_from
        check_resumable(checkpoint, path)
        meta, loop = checkpoint['meta'], runner.train_loop
        text = meta.pop('config', None) or meta.get('config_text')  # mmengine would execute `config`
        check_finite(checkpoint['state_dict'], path)
        _check_gpus(text, path, runner)
        check_classes(getattr(loop.dataloader.dataset, 'metainfo', {}).get('classes'), checkpoint, path)
        _follow_the_work_folder(runner, checkpoint['message_hub']['runtime_info'])
        self._follow_the_config(runner, checkpoint, path)
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        done, of = (meta['epoch'], loop.max_epochs) if by_epoch else (meta['iter'], loop.max_iters)
        if done >= of:
            unit = 'epochs' if by_epoch else 'iterations'
            runner.logger.info(f'{path} is of the end of this training, {done} of {of} {unit}: nothing is left to do')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """OneCycleLR keeps a function in its state, which no safe reader takes; its constructor sets it anyway."""
        saved = checkpoint.get('param_schedulers') or []
        for state in saved if isinstance(saved, list) else [state for states in saved.values() for state in states]:
            for key in [key for key, value in state.items() if callable(value)]:
                del state[key]

    def _follow_the_config(self, runner: Runner, checkpoint: dict, path) -> None:
        meta, loop, parts = checkpoint['meta'], runner.train_loop, _parts(runner, checkpoint, path)
        for part in parts:
            part.check(path)
        course = Course(0, meta['iter'], 0)
        schedule = [change for part in parts for change in part.changes_of_the_schedule()]
        if isinstance(loop, EpochBasedTrainLoop):
            course = Course(meta['epoch'], meta['iter'], len(loop.dataloader))
            schedule += course.count_anew(checkpoint, [s for part in parts for s in part.schedulers], path)
        options = [change for part in parts for change in part.changes_of_the_options()]
        before = max(part.rate() for part in parts)
        if schedule:
            for part in parts:
                part.replay(course, path, schedule)
        for part in parts:
            part.write_options()
        after = max(part.rate() for part in parts)
        if meta['iter'] != course.iterations:
            schedule.append(f'{meta["iter"]} iterations count as {course.iterations}')
            meta['iter'] = course.iterations
        if schedule or options:
            at = f'epoch {course.epochs}' if course.length else f'iteration {course.iterations}'
            runner.logger.info(
                f'{path} was trained with other settings than those of the config, which hold from {at} on: '
                f'{"; ".join(schedule + options)}; learning rate {before:.6g} -> {after:.6g}'
            )
        left = loop.max_epochs - course.epochs if course.length else loop.max_iters - course.iterations
        if left > 0 and after == 0:
            runner.logger.warning('the learning rate is 0: by the config the schedule ends before the training does')


class Course:
    """How far a training has come: `epochs`, `iterations` and, where it counts epochs, iterations in each (or 0)."""

    def __init__(self, epochs: int, iterations: int, length: int) -> None:
        self.epochs, self.iterations, self.length = epochs, iterations, length

    def count_anew(self, checkpoint: dict, schedulers: list, path) -> list[str]:
        """With another number of iterations in an epoch the epochs count: iterations as if all had been of this length.

        Returns what that changes in a schedule by iterations.
        """
        info = checkpoint['message_hub']['runtime_info']
        epochs, iterations = info.get('max_epochs'), info.get('max_iters')
        if not (isinstance(epochs, int) and isinstance(iterations, int) and 0 < epochs <= iterations):
            epochs, iterations = self.epochs or 1, self.iterations if self.epochs else self.length
        length = iterations // epochs
        if length == self.length:
            return []
        if self.iterations and not self.epochs:
            raise CheckpointError(
                f'checkpoint {path} is of a training by iterations or of the middle of a first epoch of {length} '
                f'iterations, and the config trains by epochs of {self.length}: start with --load-from {path}'
            )
        self.iterations = self.epochs * self.length
        by_iteration = any(not scheduler.by_epoch for scheduler in schedulers)
        return [f'an epoch has {length} -> {self.length} iterations'] if by_iteration else []

    def replay(self, schedulers: list) -> None:
        """Steps fresh schedulers in the order in which mmengine's ParamSchedulerHook would have."""
        by_epoch = [scheduler for scheduler in schedulers if scheduler.by_epoch]
        by_iteration = [scheduler for scheduler in schedulers if not scheduler.by_epoch]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)  # no optimizer takes a step between these
            for _ in range(self.epochs):
                _step(by_iteration, self.length)
                _step(by_epoch)
            _step(by_iteration, self.iterations - self.epochs * self.length)


class Part:
    """One optimizer of a training: its wrapper and schedulers, fresh from the config, and what the checkpoint has."""

    def __init__(self, wrapper: OptimWrapper, schedulers: list, saved: dict, states: list) -> None:
        self.wrapper, self.schedulers, self.saved, self.states = wrapper, schedulers, saved, states
        self.options = set(inspect.signature(type(wrapper.optimizer)).parameters) - {'params'}
        scheduled = {scheduler.param_name for scheduler in schedulers}
        # What schedulers change, `betas` for Adam's momentum; and what they start from, OneCycleLR at other values.
        self.scheduled = scheduled | ({'betas'} if any(getattr(s, 'use_betas', False) for s in schedulers) else set())
        self.starts = {f'{start}_{name}' for start in ('initial', 'max', 'min') for name in scheduled}

    def pairs(self) -> list[tuple[dict, dict]]:
        """(the checkpoint's, the config's) parameter groups, last what mmengine keeps as the base values."""
        own, saved = list(self.wrapper.optimizer.param_groups), list(self.saved['param_groups'])
        if self.wrapper.base_param_settings is not None and self.saved.get('base_param_settings') is not None:
            own.append(self.wrapper.base_param_settings)
            saved.append(self.saved['base_param_settings'])
        return list(zip(saved, own, strict=True))

    def rate(self) -> float:
        return max(group.get('lr', 0) for group in self.saved['param_groups'])

    def check(self, path) -> None:
        """Raises a CheckpointError unless the checkpoint's state is of this optimizer and of these groups."""
        own, saved = self.wrapper.optimizer.param_groups, self.saved['param_groups']
        advice = f'resume with the optimizer settings of that training, or start from its weights: --load-from {path}'
        for index in range(max(len(own), len(saved))):
            there, here = (groups[index] if index < len(groups) else {'params': []} for groups in (saved, own))
            sizes = len(there['params']), len(here['params'])
            if sizes[0] != sizes[1] or there.get('group_name') != here.get('group_name'):
                raise CheckpointError(
                    f'checkpoint {path} has {len(saved)} groups of parameters in its optimizer, the config has '
                    f'{len(own)}; the first difference is group {index}, of {sizes[0]} and {sizes[1]} parameters: '
                    + advice
                )
        missing = [key for key in sorted(self.options & own[0].keys() - saved[0].keys()) if _is_number(own[0][key])]
        if missing:
            raise CheckpointError(
                f'checkpoint {path} is of another optimizer than {type(self.wrapper.optimizer).__name__}: it has no '
                f'{" and no ".join(missing)}: {advice}'
            )
        indices = [index for group in saved for index in group['params']]
        parameters = [parameter for group in own for parameter in group['params']]
        for position, (index, parameter) in enumerate(zip(indices, parameters, strict=True)):
            for key in ('exp_avg', 'momentum_buffer'):
                value = (self.saved['state'].get(index) or {}).get(key)
                if value is not None and value.shape != parameter.shape:
                    raise CheckpointError(
                        f'checkpoint {path} has {key} {tuple(value.shape)} for parameter {position} of the optimizer, '
                        f'which has the shape {tuple(parameter.shape)} in the config: {advice}'
                    )

    def changes_of_the_schedule(self) -> list[str]:
        changes = []
        if len(self.states) != len(self.schedulers):
            changes.append(f'param_scheduler has {len(self.states)} -> {len(self.schedulers)} entries')
        for index, (state, scheduler) in enumerate(zip(self.states, self.schedulers, strict=False)):
            old, new = _settings(state), _settings(scheduler.state_dict())
            name = f'param_scheduler[{index}] {type(scheduler).__name__}'
            differing = [key for key in new if key in old and not _same(old[key], new[key])]
            if old.keys() != new.keys():
                changes.append(f'{name} was of another type')
            elif differing:
                # `end` is what the config says, `total_iters` follows from it.
                shown = [key for key in differing if key not in ('total_iters', '_schedule_phases')] or differing
                changes.append(f'{name} ' + ', '.join(f'{key} {_text(old[key])} -> {_text(new[key])}' for key in shown))
        return changes + self._differences(self.starts) + self._differences(self.scheduled & {'betas'})

    def changes_of_the_options(self) -> list[str]:
        return self._differences(self.options - self.scheduled)

    def _differences(self, keys: set[str]) -> list[str]:
        """Of the `keys` those whose values differ in a parameter group: the last such pair, and how many."""
        changes = []
        for key in sorted(keys):
            pairs = [(old[key], new[key]) for old, new in self.pairs() if key in old and key in new]
            if key in self.scheduled:  # betas, of which a scheduler changes the first
                pairs = [(old[1:], new[1:]) for old, new in pairs]
            differing = [(old, new) for old, new in pairs if not _same(old, new)]
            if differing:
                old, new = differing[-1]
                number = '' if len(differing) == len(pairs) else f' (in {len(differing)} of {len(pairs)} groups)'
                changes.append(f'{key} {_text(old)} -> {_text(new)}{number}')
        return changes

    def replay(self, course: Course, path, changes: list[str]) -> None:
        """Writes into the checkpoint where the schedule of the config is after this `course`."""
        if any(getattr(scheduler, 'need_val_args', False) for scheduler in self.schedulers):
            self._carry_over(path, changes)
            return
        course.replay(self.schedulers)
        for old, new in self.pairs():
            old.update({key: new[key] for key in (self.starts | self.scheduled) & new.keys()})
        self.states[:] = [scheduler.state_dict() for scheduler in self.schedulers]

    def _carry_over(self, path, changes: list[str]) -> None:
        """ReduceOnPlateau follows metrics, which cannot be replayed: it keeps its state, with the config's settings."""
        others = [s for s in self.schedulers if not getattr(s, 'need_val_args', False)]
        states = [s for s, own in zip(self.states, self.schedulers, strict=False) if own in others]
        if (
            len(self.states) != len(self.schedulers)
            or Part(self.wrapper, others, self.saved, states).changes_of_the_schedule()
            or self._differences(self.starts)
            or any(text.startswith('an epoch has') for text in changes)
        ):
            raise CheckpointError(
                f'checkpoint {path}: its schedule has followed the metrics (ReduceOnPlateau), so that it cannot go on '
                f'with another one, but {"; ".join(changes)}: keep these as they were, or start with --load-from {path}'
            )
        for state, scheduler in zip(self.states, self.schedulers, strict=True):
            state.update(_settings(scheduler.state_dict()))

    def write_options(self) -> None:
        """Writes into the checkpoint what the config says of the optimizer, but for what a scheduler changes."""
        for old, new in self.pairs():
            old.update({key: new[key] for key in (self.options - self.scheduled) & new.keys()})


def _parts(runner: Runner, checkpoint: dict, path) -> list[Part]:
    wrapper, schedulers = runner.optim_wrapper, runner.param_schedulers or []
    saved, states = checkpoint['optimizer'], checkpoint.setdefault('param_schedulers', [])
    names = list(wrapper.keys()) if isinstance(wrapper, OptimWrapperDict) else []
    if names and saved.keys() == set(names):
        schedulers, states = (x if isinstance(x, dict) else dict.fromkeys(names, []) for x in (schedulers, states))
        return [Part(wrapper[name], schedulers[name], saved[name], states.get(name, [])) for name in names]
    if names or 'param_groups' not in saved:
        raise CheckpointError(
            f'checkpoint {path} is of a training with other optimizers than the config: start with --load-from {path}'
        )
    return [Part(wrapper, list(schedulers), saved, states)]


def check_resumable(checkpoint: Mapping, path) -> None:
    """Raises a CheckpointError unless the checkpoint holds the state of a training, in mmengine's form."""
    meta, hub, optimizer = (checkpoint.get(key) for key in ('meta', 'message_hub', 'optimizer'))
    if meta is None or hub is None or optimizer is None:
        raise CheckpointError(
            f'checkpoint {path} holds weights, but no state of a training to resume: '
            f'start from it with --load-from {path}'
        )
    counters = [meta.get(key) if isinstance(meta, Mapping) else None for key in ('epoch', 'iter')]
    parts = [
        hub.get(key) if isinstance(hub, Mapping) else None for key in ('log_scalars', 'runtime_info', 'resumed_keys')
    ]
    groups = []
    if isinstance(optimizer, Mapping):
        states = [optimizer] if 'param_groups' in optimizer else list(optimizer.values())
        groups = [state.get('param_groups') if isinstance(state, Mapping) else None for state in states]
    wrong = {
        'meta': not all(isinstance(value, int) and value >= 0 for value in counters),
        'message_hub': not all(isinstance(part, Mapping) for part in parts),
        'optimizer': not groups
        or not all(
            isinstance(some, list) and some and all(isinstance(group, Mapping) and 'params' in group for group in some)
            for some in groups
        )
        or not all(isinstance(state.get('state'), Mapping) for state in states),
        'param_schedulers': not isinstance(checkpoint.get('param_schedulers', []), list | dict),
    }
    for key, is_wrong in wrong.items():
        if is_wrong:
            raise CheckpointError(
                f'checkpoint {path} cannot be resumed: what it holds under {key!r} is not what mmengine writes there'
            )


def latest_checkpoint(folder) -> str | None:
    """The checkpoint of the work folder to resume from: the one that its file `last_checkpoint` names, in this folder.

    A folder that was moved or copied is taken as it is now; a path outside it counts only where the folder has no file
    of that name. Without `last_checkpoint`, the one of the highest number, as the log says. None: the folder has none.

    Raises:
        CheckpointError: there are checkpoints, or `last_checkpoint` names one, but which to go on from is unclear.
    """
    folder = Path(folder)
    note = folder / 'last_checkpoint'
    named = note.read_text(errors='replace').strip() if note.is_file() else ''
    if named:
        own = folder / re.split(r'[\\/]', named)[-1]
        if own.exists():
            return str(own)
        if '://' in named or os.path.exists(named):
            return named
    files = sorted(file.name for file in folder.glob('*.pth') if not file.name.startswith('.'))
    numbered = [match for match in (re.fullmatch(r'(iter|epoch)_(\d+)\.pth', name) for name in files) if match]
    if len({match[1] for match in numbered}) == 1:
        latest = max(numbered, key=lambda match: int(match[2]))[0]
        why = f'names {named}, which does not exist' if named else 'is not there'
        print_log(f'{note} {why}: going on from {latest}, of the highest number', logger='current')
        return str(folder / latest)
    if files or named:
        found = ', '.join(files[:5]) + (', ...' if len(files) > 5 else '') if files else 'no checkpoint'
        why = f'names {named}, which does not exist' if named else 'is not there'
        raise CheckpointError(
            f'checkpoint to resume: {note} {why}, and the folder has {found}: name the checkpoint, --resume CHECKPOINT'
        )
    return None


def _check_gpus(text, path, runner: Runner) -> None:
    """mmengine's check, of the text that OpenMMLab 2.x wrote: was the training on as many GPUs?"""
    match = isinstance(text, str) and re.search(
        r'^gpu_ids\s*=\s*(?:range\(0,\s*(\d{1,6})\)|\[([\d,\s]{1,9999})\])', text, re.MULTILINE
    )
    if not match:
        return
    number = int(match[1]) if match[1] else len(match[2].replace(',', ' ').split())
    if number not in (0, get_world_size()) and not (runner.auto_scale_lr or {}).get('enable', False):
        raise CheckpointError(
            f'checkpoint {path} was trained on {number} GPUs, this training has {get_world_size()}: use as many, or '
            '--auto-scale-lr'
        )


def _follow_the_work_folder(runner: Runner, info: dict) -> None:
    """The best checkpoint so far, which mmengine deletes for a better one, is that in the folder of this training."""
    outs = [hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.out_dir]
    folders = [Path(runner.work_dir), *(Path(out, Path(runner.work_dir).name) for out in outs)]
    for key in [key for key in info if str(key).startswith(('best_ckpt', 'last_ckpt'))]:
        path = Path(str(info[key]))
        if path.parent not in folders:
            here = [folder / path.name for folder in folders if (folder / path.name).exists()]
            if here:
                info[key] = str(here[0])
            else:
                del info[key]


def _is_training(runner: Runner) -> bool:
    """mmengine builds the loop of what is asked for, and loads the checkpoint then."""
    return isinstance(runner._train_loop, BaseLoop)


def _step(schedulers: list, times: int = 1) -> None:
    for _ in range(times if schedulers else 0):
        for scheduler in schedulers:
            scheduler.step()


def _settings(state: dict) -> dict:
    return {key: value for key, value in state.items() if key not in COURSE | NOT_COMPARED and not callable(value)}


def _is_number(value) -> bool:
    return isinstance(value, int | float | tuple | list) and not isinstance(value, bool)


def _same(one, other) -> bool:
    one, other = (list(value) if isinstance(value, tuple) else value for value in (one, other))
    return one == other


def _text(value) -> str:
    if isinstance(value, dict):  # milestones: how often each counts
        value = list(value)
    return f'{value:.6g}' if isinstance(value, float) else str(value)
