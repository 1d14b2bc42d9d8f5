"""A linear model on a few vectors: whole mmengine trainings in milliseconds."""

import itertools
from pathlib import Path
from unittest.mock import patch

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset


@DATASETS.register_module()
class ToyVectors(Dataset):
    def __init__(self, length: int = 12, classes=('cat', 'dog')) -> None:
        self.x = torch.randn(length, 3, generator=torch.Generator().manual_seed(0))
        self.metainfo = dict(classes=tuple(classes))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict:
        return dict(x=self.x[index])


@MODELS.register_module()
class ToyLinear(BaseModel):
    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x, mode: str = 'loss'):
        return dict(loss=self.head(self.body(torch.stack(x)).relu()).square().mean())


NUMBERS = itertools.count()


class Rates(Hook):
    """The learning rates, momenta and so on with which each step is taken, those of the first parameter group."""

    def __init__(self) -> None:
        self.steps = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        group = runner.optim_wrapper.param_groups[0]
        self.steps.append({key: value for key, value in group.items() if key != 'params'})


def config(work_dir, epochs=None, iterations=None, scheduler=None, optimizer=None, batch_size=2, **more) -> dict:
    loop = dict(type='EpochBasedTrainLoop', max_epochs=epochs) if epochs else None
    loop = loop or dict(type='IterBasedTrainLoop', max_iters=iterations)
    sampler = dict(type='DefaultSampler' if epochs else 'InfiniteSampler', shuffle=True)
    data = dict(type='ToyVectors')
    checkpoint = dict(type='CheckpointHook', by_epoch=bool(epochs), interval=1)
    return dict(
        dict(
            model=dict(type='ToyLinear'),
            work_dir=str(work_dir),
            train_dataloader=dict(batch_size=batch_size, num_workers=0, dataset=data, sampler=sampler),
            train_cfg=loop,
            optim_wrapper=dict(optimizer=optimizer or dict(type='SGD', lr=0.1, momentum=0.9)),
            param_scheduler=scheduler,
            default_hooks=dict(checkpoint=checkpoint, logger=dict(type='LoggerHook', interval=1000)),
            randomness=dict(seed=0),
            experiment_name=f'toy{next(NUMBERS)}',  # of each Runner a log and a message hub of its own,
        ),
        **more,
    )


def train(cfg: dict, resume=None, hooks=('ResumeHook', 'FineTuneHook')) -> tuple[Runner, list[dict], str]:
    """The Runner after its training, the options of the optimizer in each step, and the text of its log."""
    more = dict(resume=True, load_from=None if resume is True else str(resume)) if resume else {}
    cfg = {**cfg, **more, 'custom_hooks': [dict(type=name) for name in hooks]}
    rates = Rates()
    with (  # what takes ten times as long as all the rest: formatting the config, asking compilers and git who they are
        patch('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True)),
        patch('mmengine.runner.runner.get_git_hash', str),
        patch('mmengine.hooks.runtime_info_hook.get_git_hash', str),
        patch.object(Runner, '_log_env'),
    ):
        runner = Runner.from_cfg(cfg)
        runner.register_hook(rates)
        runner.train()
    return runner, rates.steps, Path(runner.log_dir, f'{runner.timestamp}.log').read_text()
