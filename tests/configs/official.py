"""What the comparisons with the official configs share. An official entry is a config resolved, in the old dialect."""

import gzip
import json
from pathlib import Path

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS

ROOT = Path(__file__).parents[2]


def read_entries(file_name: str) -> dict:
    """{config name: official entry} of a compressed file in tests/data."""
    return json.loads(gzip.decompress((ROOT / 'tests/data' / file_name).read_bytes()))


def plain(value):
    """Config values as JSON has them: dicts, lists (no tuples), numbers."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def step(pipeline, kind):
    """The one transform of that type, without its type."""
    (found,) = (t for t in pipeline if t['type'] == kind)
    return {key: value for key, value in found.items() if key != 'type'}


def official_lr(old, iteration, epoch):
    """The learning rate as mmcv 1.x computes it, in closed form."""
    policy, lr = old['lr_config'], old['optimizer']['lr']
    if policy['policy'] == 'step':
        lr *= 0.1 ** sum(epoch >= milestone for milestone in policy['step'])
    else:
        progress = iteration / old['runner']['max_iters']
        lr = (lr - policy['min_lr']) * (1 - progress) ** policy['power'] + policy['min_lr']
    if iteration < policy['warmup_iters']:
        lr *= 1 - (1 - iteration / policy['warmup_iters']) * (1 - policy['warmup_ratio'])
    return lr


def learning_rates(cfg, epoch_length, iterations):
    """(iteration, learning rate) as a config of ours has it."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    wrapper = OptimWrapper(optimizer)
    schedulers = [PARAM_SCHEDULERS.build(item, default_args=dict(optimizer=wrapper)) for item in cfg.param_scheduler]
    for iteration in range(iterations):
        yield iteration, optimizer.param_groups[0]['lr']
        wrapper.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (iteration + 1) % epoch_length == 0:
                scheduler.step()
