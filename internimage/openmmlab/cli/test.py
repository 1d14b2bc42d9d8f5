"""Evaluate a trained detection or segmentation model: prints the config's metrics.

python tools/test.py CONFIG CHECKPOINT [--out FILE.json] [--show-dir DIR] [--tta] [--cfg-options k=v ...]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import mmcv
from _common import UserError, build_model, build_runner, check_data, load_config, run, write_whole
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

from internimage.checkpoint import check_state_dict, read_state_dict
from internimage.inference import describe


def main() -> None:
    args = parse_args()
    if args.out and Path(args.out).suffix not in ('.json', '.pkl'):
        raise UserError(f'--out {args.out} must end in .json or .pkl')
    cfg = load_config(args.config, args.cfg_options, args.launcher, args.work_dir)
    cfg.load_from = args.checkpoint
    check_data(cfg, 'test')
    check_state_dict(build_model(cfg), read_state_dict(args.checkpoint), args.checkpoint)
    if args.tta:
        use_tta(cfg)

    runner = build_runner(cfg)
    if args.out:
        runner.test_evaluator.metrics.append(Predictions(args.out, runner.test_dataloader.dataset.metainfo))
    if args.show_dir:
        runner.register_hook(DrawHook(args.show_dir))
    runner.test()


def use_tta(cfg: Config) -> None:
    """Test-time augmentation by the config's `tta_model` and `tta_pipeline`."""
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise UserError(f'config {cfg.filename} has no tta_model and tta_pipeline, which --tta needs')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


class Predictions(BaseMetric):
    """Collects the predictions and writes them, the complete file or none: one record per image with `file`, `size`
    (height, width) and `predictions` as `internimage.inference.describe` states them, the same in .json and .pkl."""

    def __init__(self, path: str, dataset_meta: dict):
        super().__init__()
        self.path = Path(path)
        self.dataset_meta = dataset_meta

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            predictions = describe(sample, self.dataset_meta['classes'])
            self.results.append(dict(file=sample['img_path'], size=sample['ori_shape'], predictions=predictions))

    def compute_metrics(self, results: list) -> dict:
        write_whole(results, self.path)
        return {}


class DrawHook(Hook):
    """Draws every test image with the visualizer of the config: truth on the left, prediction on the right.

    The frameworks' own hooks differ, and mmseg's cannot write to a folder that the user names.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for sample in outputs:
            image = mmcv.imread(sample.img_path, channel_order='rgb')
            file = self.folder / f'{Path(sample.img_path).stem}.png'
            runner.visualizer.add_datasample(file.stem, image, sample.cpu(), out_file=str(file))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--work-dir', help='folder for the log (default: work_dirs/<config name>)')
    parser.add_argument('--out', metavar='FILE', help='write the predictions to this .json or .pkl file')
    parser.add_argument('--show-dir', metavar='DIR', help='write drawn images to this folder')
    parser.add_argument('--tta', action='store_true', help="the config's test-time augmentation")
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override the config')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == '__main__':
    run(main)
