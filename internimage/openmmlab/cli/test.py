"""Evaluate a trained detection or segmentation model: prints the config's metrics.

internimage test CONFIG CHECKPOINT [--out FILE.json] [--report [FILE]] [--show-dir DIR] [--tta] [--cfg-options k=v ...]
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import mmengine
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

from ...checkpoint import check_finite, check_state_dict, read_checkpoint
from ...files import whole_file
from ..cfg_options import CfgOptions
from ..datasets.coco import read_as_stated
from ..drawing import draw_sample, draw_truth, with_palette
from ..engine import NoDetectionHook, check_classes, dataset_classes, ensure_hooks
from ..evaluation_report import Report
from ..images import write_image
from ..inference import describe, read_image
from ..large_images import save_memory
from ..tta import use_tta
from .common import (
    UserError,
    add_check_data,
    build_model,
    build_runner,
    check_data,
    check_writable,
    load_config,
    one_line_errors,
)


@one_line_errors
def main() -> None:
    args = parse_args()
    if args.out and Path(args.out).suffix not in ('.json', '.pkl'):
        raise UserError(f'--out {args.out} must end in .json or .pkl')
    if args.out:
        check_writable(Path(args.out).parent, '--out')
    if args.show_dir:
        check_writable(args.show_dir, '--show-dir')
    if args.report:
        check_writable(Path(args.report).parent, '--report')
    cfg = load_config(args.config, args.cfg_options, args.launcher, args.work_dir)
    cfg.load_from = args.checkpoint
    check_writable(cfg.work_dir, 'work folder')
    check_data(cfg, 'test', mode=args.check_data)
    checkpoint = read_checkpoint(args.checkpoint)
    check_state_dict(build_model(cfg), checkpoint['state_dict'], args.checkpoint)
    check_classes(dataset_classes(cfg, 'test'), checkpoint, args.checkpoint)
    check_finite(checkpoint['state_dict'], args.checkpoint)
    if args.tta:
        use_tta(cfg)

    runner = build_runner(cfg)
    if args.out:
        runner.test_evaluator.metrics.append(Predictions(args.out, runner.test_dataloader.dataset.metainfo))
    if args.report is not None:
        page = args.report or Path(cfg.work_dir, 'report.html')
        runner.test_evaluator.metrics.append(Report(page, runner.test_dataloader.dataset, args.checkpoint))
    if args.show_dir:
        runner.register_hook(DrawHook(args.show_dir, runner.test_dataloader.dataset))
    if not args.tta:  # which adds up the scores of all classes
        save_memory(runner.model)
    ensure_hooks(runner, NoDetectionHook)
    runner.test()


class Predictions(BaseMetric):
    """Collects the predictions and writes them, the complete file or none: one record per image with `file`, `size`
    (height, width) and `predictions` as `inference.describe` states them, the same in .json and .pkl."""

    def __init__(self, path: str, dataset_meta: dict):
        super().__init__()
        self.path = Path(path)
        self.dataset_meta = dataset_meta

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            predictions = describe(sample, self.dataset_meta['classes'])
            self.results.append(dict(file=sample['img_path'], size=sample['ori_shape'], predictions=predictions))

    def compute_metrics(self, results: list) -> dict:
        with whole_file(self.path) as part:
            mmengine.dump(results, part)
        return {}


class DrawHook(Hook):
    """Draws every test image to `folder`: truth on the left, where there is any, prediction on the right.

    Images in sub folders are drawn to the same sub folders. In distributed testing every process draws its own.
    """

    def __init__(self, folder: str, dataset):
        self.folder = Path(folder)
        self.meta = with_palette(dataset.metainfo)
        self.names = drawing_names(dataset.get_data_info(index)['img_path'] for index in range(len(dataset)))

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for sample in outputs:
            picture = read_image(sample.img_path)
            if picture.shape[:2] != tuple(sample.ori_shape):
                picture = read_as_stated(sample.img_path, sample.ori_shape)
            picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            name = self.names[os.path.abspath(sample.img_path)]
            halves = draw_truth(picture, sample, self.meta), draw_sample(picture, sample, self.meta)
            drawn = np.concatenate([half for half in halves if half is not None], axis=1)
            write_image(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), self.folder / name)


def drawing_names(files: Iterable[str]) -> dict[str, Path]:
    """{absolute path of an image: the name of its drawing}, relative to the innermost folder that holds all images:
    the path with .png for the image's suffix, or after it where two images differ in the suffix alone."""
    files = sorted({os.path.abspath(file) for file in files})
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    paths = [Path(os.path.relpath(file, root)) for file in files]
    stems = [path.with_suffix('.png') for path in paths]
    if len(set(stems)) < len(stems):
        stems = [path.with_name(f'{path.name}.png') for path in paths]
    return dict(zip(files, stems, strict=True))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--work-dir', help='folder for the log (default: work_dirs/<config name>)')
    parser.add_argument('--out', metavar='FILE', help='write the predictions to this .json or .pkl file')
    parser.add_argument('--show-dir', metavar='DIR', help='write drawn images to this folder')
    parser.add_argument(
        '--report',
        nargs='?',
        const='',
        metavar='FILE',
        help='write a page with AP or IoU per class, confusion matrix and worst images (default: report.html in the '
        'work folder)',
    )
    parser.add_argument('--tta', action='store_true', help='average several views of each image')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='override the config')
    add_check_data(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()
