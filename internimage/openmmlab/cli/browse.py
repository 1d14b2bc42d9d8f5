"""Draw what the network will see: the images of a config after its augmentation, with their annotations.

    internimage browse CONFIG [--split train] [--count 24] [--views 1] [--out-dir DIR] [--cfg-options KEY=VALUE ...]

Each image as it leaves the pipeline, before it is normalised and padded. Annotations that a pipeline reads after it has
resized the image (validation and test) are drawn at the size of the file.
"""

import argparse
import os
import sys
from pathlib import Path

import cv2
import mmengine
import numpy as np
from mmengine.registry import DATASETS

from ...errors import UserError
from ..cfg_options import CfgOptions
from ..drawing import draw_truth, with_palette
from ..images import write_image
from ..nodes import leaf_datasets, type_name
from ..settings import RESIZES
from .common import add_check_data, blame, check_data, check_writable, load_config, one_line_errors, scope


@one_line_errors
def main() -> None:
    args = parse_args()
    for name in ('count', 'views'):
        if getattr(args, name) < 1:
            raise UserError(f'--{name} must be at least 1, got {getattr(args, name)}')
    cfg = load_config(args.config, args.cfg_options)
    out = Path(args.out_dir or Path(cfg.work_dir, 'browse', args.split))
    check_writable(out, '--out-dir')
    loader = cfg.get(f'{args.split}_dataloader')
    if not loader:
        raise UserError(f'config {args.config} has no {args.split}_dataloader')
    check_data(cfg, args.split, mode=args.check_data)
    with scope(cfg), blame(f'config {args.config}: {args.split}_dataloader'):
        dataset = DATASETS.build(loader.dataset)
    np.random.seed(args.seed)
    meta = with_palette(dataset.metainfo)
    at_file_size = annotated_at_file_size(next(leaf_datasets(loader.dataset)).pipeline)
    count = min(args.count, len(dataset))
    chosen = np.unique(np.linspace(0, len(dataset) - 1, count).astype(int)).tolist()
    progress = mmengine.ProgressBar(len(chosen) * args.views, file=sys.stdout)
    left_out = 0
    for index in chosen:
        for view in range(args.views):
            sample = dataset.prepare_data(index) if hasattr(dataset, 'prepare_data') else dataset[index]
            progress.update()
            if sample is None:
                left_out += 1
                continue
            stem = Path(sample['data_samples'].get('img_path') or str(index)).stem
            name = f'{index:05}_{stem}' + (f'_{view}' if args.views > 1 else '') + '.png'
            write_image(cv2.cvtColor(view_of(sample, meta, at_file_size), cv2.COLOR_RGB2BGR), out / name)
    note = f', {left_out} left out by the pipeline' if left_out else ''
    print(f'\n{len(chosen) * args.views - left_out} pictures of {len(dataset)} images in {os.path.join(out, "")}{note}')


def view_of(sample: dict, meta: dict, at_file_size: bool = False, least_side: int = 480) -> np.ndarray:
    """A sample of a data set as (H, W, 3) uint8 RGB with its annotations, which are of the image or, `at_file_size`,
    of the file; small ones are enlarged by a whole factor."""
    inputs, truth = sample['inputs'], sample['data_samples']
    image = np.ascontiguousarray(inputs.numpy().transpose(1, 2, 0)[..., ::-1].clip(0, 255).astype(np.uint8))
    if at_file_size and tuple(truth.ori_shape) != image.shape[:2]:
        image = cv2.resize(image, tuple(truth.ori_shape)[::-1], interpolation=cv2.INTER_LINEAR)
    factor = -(-least_side // max(image.shape[:2])) or 1
    if factor > 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    drawn = draw_truth(image, truth, meta, factor)
    return image if drawn is None else drawn


def annotated_at_file_size(pipeline: list) -> bool:
    """Does a pipeline read the annotations after it has resized the image?"""
    names = [type_name(step) for step in pipeline]
    resized = next((index for index, name in enumerate(names) if name in RESIZES), len(names))
    return any('Annotations' in name for name in names[resized:])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='default: %(default)s')
    parser.add_argument('--count', type=int, default=24, help='images, evenly from the data set (default: %(default)s)')
    parser.add_argument('--views', type=int, default=1, help='pictures of each image, augmented anew (default: 1)')
    parser.add_argument('--out-dir', metavar='DIR', help='default: <work folder>/browse/<split>')
    parser.add_argument('--seed', type=int, default=0, help='of the augmentation (default: %(default)s)')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='override the config')
    add_check_data(parser)
    return parser.parse_args()
