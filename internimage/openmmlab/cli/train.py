"""Train a detection or segmentation model.

    internimage train CONFIG [--load-from CHECKPOINT | --backbone CHECKPOINT | --resume [CHECKPOINT]]
                             [--work-dir DIR] [--amp] [--auto-scale-lr] [--log tensorboard] [--launcher pytorch]
                             [--cfg-options KEY=VALUE ...]

Where to start: `--load-from` takes the whole model's weights, also of a model with another number of classes (layers
that depend on it are initialised); `--backbone` the backbone alone; `--resume` continues an interrupted training.

Checkpoints, logs and the full config go to the work folder: work_dirs/<config name> unless given.
"""

import argparse
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from torch import nn

from ...checkpoint import (
    CheckpointError,
    backbone_weights,
    check_finite,
    check_state_dict,
    fit_for_fine_tuning,
    is_whole_model,
    read_checkpoint,
    read_state_dict,
)
from ...network import InternImage
from ..cfg_options import CfgOptions
from ..checkpoint import class_layers
from ..configuration import type_name
from ..engine import (
    BatchOfOneHook,
    FineTuneHook,
    NoDetectionHook,
    ResumeHook,
    check_classes,
    check_resumable,
    dataset_classes,
    ensure_hooks,
    keep_boxes_exact,
    latest_checkpoint,
)
from .common import (
    UserError,
    add_check_data,
    build_model,
    build_runner,
    check_data,
    check_writable,
    load_config,
    one_line_errors,
    scope,
)

# Where else curves go: mmengine's class, and the package that it needs.
LOGS = {
    'tensorboard': ('TensorboardVisBackend', 'tensorboard'),
    'wandb': ('WandbVisBackend', 'wandb'),
    'mlflow': ('MLflowVisBackend', 'mlflow'),
    'clearml': ('ClearMLVisBackend', 'clearml'),
    'neptune': ('NeptuneVisBackend', 'neptune'),
    'dvclive': ('DVCLiveVisBackend', 'dvclive'),
    'aim': ('AimVisBackend', 'aim'),
}


@one_line_errors
def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, args.launcher, args.work_dir)
    if args.auto_scale_lr:
        if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise UserError(f'config {args.config} has no auto_scale_lr.base_batch_size, which --auto-scale-lr needs')
        cfg.auto_scale_lr.enable = True
    if args.amp:
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if type_name(cfg.optim_wrapper) == 'AmpOptimWrapper' and not torch.cuda.is_available():
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'
        for gpu_option in ('loss_scale', 'dtype'):
            cfg.optim_wrapper.pop(gpu_option, None)
    log_to(cfg, args.log)
    choose_start(cfg, args)
    if args.backbone:
        backbone = read_state_dict(args.backbone)
        prefix = dict(prefix='backbone.') if is_whole_model(backbone) else {}
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=args.backbone, **prefix)
        check_finite(backbone, args.backbone)

    check_writable(cfg.work_dir, 'work folder')
    check_data(cfg, 'train', 'val', mode=args.check_data)
    model = build_model(cfg)
    if args.backbone and isinstance(model.backbone, InternImage):
        backbone_weights(model.backbone, backbone, args.backbone)
    start_from_checkpoint(cfg, model)
    runner = build_runner(cfg)
    ensure_hooks(runner, FineTuneHook, ResumeHook, BatchOfOneHook, NoDetectionHook)
    if type_name(cfg.optim_wrapper) == 'CPUAmpOptimWrapper':
        keep_boxes_exact(runner.model)
    with one_value_per_channel():
        runner.train()


def log_to(cfg: Config, names: list[str]) -> None:
    """Adds the trackers to those that the config's visualizer writes to.

    Raises:
        UserError: the package of one is not installed.
    """
    for name in names:
        kind, package = LOGS[name]
        if importlib.util.find_spec(package) is None:
            raise UserError(f'--log {name} needs the package {package}: pip install {package}')
        visualizer = cfg.setdefault('visualizer', dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]))
        if all(type_name(backend) != kind for backend in visualizer.vis_backends):
            visualizer.vis_backends = [*visualizer.vis_backends, dict(type=kind)]


def choose_start(cfg: Config, args: argparse.Namespace) -> None:
    """The command line decides over the config's `load_from` and `resume`. `cfg` then says what is there: `resume` is
    True only with a checkpoint to go on from, under `load_from`."""
    if args.load_from or args.backbone:
        cfg.load_from, cfg.resume = args.load_from, False
    elif args.resume and args.resume != 'latest':
        cfg.load_from, cfg.resume = args.resume, True
    elif args.resume or (cfg.get('resume') and not cfg.get('load_from')):
        latest = latest_checkpoint(cfg.work_dir)
        cfg.resume = latest is not None
        if latest:
            cfg.load_from = latest
            print(f'going on from {latest}')
        else:
            start = cfg.get('load_from') or 'the beginning'
            print(f'no checkpoint to resume in {cfg.work_dir}: the training starts from {start}')


def start_from_checkpoint(cfg: Config, model: nn.Module) -> None:
    """Checks that the checkpoint that training starts from can be read and is one of this model.

    Resuming needs every weight and the state of the training. `load_from` may be of a model with other classes, see
    FineTuneHook; everything else must fit. Either brings a backbone, so that an `init_cfg` has nothing to add.
    """
    path = cfg.get('load_from')
    if path is None or ('://' in path and not path.startswith('http')):  # mmengine's own stores: checked when loaded
        return
    checkpoint = read_checkpoint(path)
    check_classes(dataset_classes(cfg, 'train'), checkpoint, path, renamed=not cfg.get('resume'))
    if cfg.get('resume'):
        check_state_dict(model, checkpoint['state_dict'], path)
        check_resumable(checkpoint, path)
    else:
        with scope(cfg):
            names = class_layers(cfg.model)
        try:
            fit_for_fine_tuning(model, checkpoint['state_dict'], names, path)
        except CheckpointError as error:
            raise CheckpointError(f'{error}. To start from its backbone alone: --backbone {path}') from error
    check_finite(checkpoint['state_dict'], path)
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None


@contextmanager
def one_value_per_channel() -> Iterator[None]:
    """Turns torch's error about batch norm on one value per channel, if BatchOfOneHook missed it, into a UserError."""
    try:
        yield
    except ValueError as error:
        if 'Expected more than 1 value per channel' not in str(error):
            raise
        raise UserError(
            f'batch norm: {error}: train with more images in a batch (train_dataloader.batch_size), or larger ones'
        ) from error


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n')[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('--work-dir', help='folder for checkpoints and logs (default: work_dirs/<config name>)')
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        '--resume',
        nargs='?',
        const='latest',
        metavar='CHECKPOINT',
        help='continue from this checkpoint; without a name from the latest of the work folder, if there is one',
    )
    start.add_argument(
        '--load-from',
        metavar='CHECKPOINT',
        help='start from these weights of the whole model; they may be for another number of classes',
    )
    start.add_argument(
        '--backbone',
        metavar='CHECKPOINT',
        help="start from the backbone of this checkpoint: an ImageNet model's, a detector's or a segmentor's",
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision; bfloat16 on a CPU')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the total batch size')
    parser.add_argument(
        '--log', nargs='+', choices=list(LOGS), default=[], metavar='NAME', help=f'also log to: {", ".join(LOGS)}'
    )
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='override the config')
    add_check_data(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()
