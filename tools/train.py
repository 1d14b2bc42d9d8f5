"""Train a detection or segmentation model.

    python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] [--auto-scale-lr]
                                 [--cfg-options KEY=VALUE ...] [--launcher pytorch]

Checkpoints, logs and the full config go to the work folder: work_dirs/<config name> unless given.
"""

import argparse
from contextlib import contextmanager

import torch
from _common import UserError, build_model, build_runner, check_data, load_config, run
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from mmengine.config import Config, DictAction
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import find_latest_checkpoint
from mmengine.utils import apply_to
from torch import nn

from internimage.checkpoint import CheckpointError, check_state_dict, read_checkpoint


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
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper' and not torch.cuda.is_available():
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'
        for gpu_option in ('loss_scale', 'dtype'):
            cfg.optim_wrapper.pop(gpu_option, None)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'latest' else args.resume

    check_data(cfg, 'train', 'val')
    check_checkpoint(cfg, build_model(cfg))
    runner = build_runner(cfg)
    if cfg.optim_wrapper.type == 'CPUAmpOptimWrapper':
        keep_boxes_exact(runner.model)
    runner.train()


def check_checkpoint(cfg: Config, model: nn.Module) -> None:
    """Is the checkpoint that training starts from readable, and one of this model?

    Resuming wants every weight and the state of the training. `load_from` may have other heads (fine-tuning on other
    classes: mmengine lists what it left out), but something must fit.
    """
    resume = cfg.get('resume', False)
    path = cfg.get('load_from') or (find_latest_checkpoint(cfg.work_dir) if resume else None)
    if path is None or '://' in path:
        return
    checkpoint = read_checkpoint(path)
    weights = checkpoint['state_dict']
    if resume:
        check_state_dict(model, weights, path)
        if not {'meta', 'message_hub', 'optimizer'} <= set(checkpoint):
            raise CheckpointError(
                f'checkpoint {path} holds weights, but no state of a training to resume: '
                f'start from it with --cfg-options load_from={path}'
            )
    elif not any(name in weights and weights[name].shape == value.shape for name, value in model.state_dict().items()):
        check_state_dict(model, weights, path)


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16 on the CPU, which mmengine's AmpOptimWrapper refuses; it needs no loss scaling."""

    @contextmanager
    def optim_context(self, model: nn.Module):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def keep_boxes_exact(model: nn.Module) -> None:
    """Boxes stay in single precision where the layers of a detector run in bfloat16.

    RoIs take on the type of the features: with the 8 bits of bfloat16 a corner at 1000 pixels could be 2 pixels off.
    And mmcv's RoIAlign and NMS have no bfloat16 on the CPU.
    """
    for module in model.modules():
        if isinstance(module, BaseRoIExtractor):
            module.register_forward_pre_hook(lambda _, args: in_single_precision(args))
        elif isinstance(module, BaseDenseHead):
            module.register_forward_hook(lambda _, args, outputs: in_single_precision(outputs))


def in_single_precision(data):
    """`data`, tensors in any nest of containers, with those of bfloat16 as float32."""
    return apply_to(data, lambda x: torch.is_tensor(x) and x.dtype == torch.bfloat16, torch.Tensor.float)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n')[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('--work-dir', help='folder for checkpoints and logs (default: work_dirs/<config name>)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='latest',
        metavar='CHECKPOINT',
        help='go on from this checkpoint; without a name from the latest of the work folder, if there is one',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision; bfloat16 on a CPU')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the total batch size')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override the config')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == '__main__':
    run(main)
