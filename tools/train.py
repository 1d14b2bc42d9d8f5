"""Train a detection or segmentation model.

    python tools/train.py CONFIG [--load-from CHECKPOINT | --backbone CHECKPOINT | --resume [CHECKPOINT]]
                                 [--work-dir DIR] [--amp] [--auto-scale-lr] [--cfg-options KEY=VALUE ...]
                                 [--launcher pytorch]

Where to start: `--load-from` takes the whole model's weights, also when they are for another number of classes (what
depends on that starts anew); `--backbone` the backbone alone; `--resume` goes on with a broken-off training.

Checkpoints, logs and the full config go to the work folder: work_dirs/<config name> unless given.
"""

import argparse

import torch
from _common import UserError, add_check_data, build_model, build_runner, check_data, load_config, run, scope
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint
from torch import nn

from internimage.cfg_options import CfgOptions
from internimage.checkpoint import (
    CheckpointError,
    backbone_weights,
    check_state_dict,
    fit_for_fine_tuning,
    is_whole_model,
    read_checkpoint,
    read_state_dict,
)
from internimage.configuration import type_name
from internimage.engine import FineTuneHook, keep_boxes_exact
from internimage.models import InternImage
from internimage.openmmlab_checkpoint import class_layers


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
    resume_from = find_latest_checkpoint(cfg.work_dir) if args.resume == 'latest' else args.resume
    if resume_from:
        cfg.resume = True
        cfg.load_from = resume_from
    if args.load_from:
        cfg.load_from = args.load_from
    if args.backbone:
        backbone = read_state_dict(args.backbone)
        prefix = dict(prefix='backbone.') if is_whole_model(backbone) else {}
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=args.backbone, **prefix)
        cfg.load_from = None

    check_data(cfg, 'train', 'val', mode=args.check_data)
    model = build_model(cfg)
    if args.backbone and isinstance(model.backbone, InternImage):
        backbone_weights(model.backbone, backbone, args.backbone)
    start_from_checkpoint(cfg, model)
    runner = build_runner(cfg)
    runner.register_hook(FineTuneHook())
    if type_name(cfg.optim_wrapper) == 'CPUAmpOptimWrapper':
        keep_boxes_exact(runner.model)
    runner.train()


def start_from_checkpoint(cfg: Config, model: nn.Module) -> None:
    """Is the checkpoint that training starts from readable, and one of this model?

    Resuming wants every weight and the state of the training. `load_from` may be of a model with other classes, see
    FineTuneHook; everything else must fit. Either brings a backbone, so that an `init_cfg` has nothing to add.
    """
    path = cfg.get('load_from') or (find_latest_checkpoint(cfg.work_dir) if cfg.get('resume') else None)
    if path is None or ('://' in path and not path.startswith('http')):  # mmengine's own stores: checked when loaded
        return
    checkpoint = read_checkpoint(path)
    if cfg.get('resume'):
        check_state_dict(model, checkpoint['state_dict'], path)
        if not {'meta', 'message_hub', 'optimizer'} <= set(checkpoint):
            raise CheckpointError(
                f'checkpoint {path} holds weights, but no state of a training to resume: '
                f'start from it with --load-from {path}'
            )
    else:
        with scope(cfg):
            names = class_layers(cfg.model)
        try:
            fit_for_fine_tuning(model, checkpoint['state_dict'], names, path)
        except CheckpointError as error:
            raise CheckpointError(f'{error}. To start from its backbone alone: --backbone {path}') from error
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None


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
        help='go on from this checkpoint; without a name from the latest of the work folder, if there is one',
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
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='override the config')
    add_check_data(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == '__main__':
    run(main)
