"""Run a trained model on images.

    python tools/infer.py IMAGES CONFIG CHECKPOINT [--out-dir DIR] [--score-thr 0.3] [--device cpu]

IMAGES is one image, a folder or a glob. A detector leaves a drawn <name>.png per image and one predictions.json; a
segmentation model a drawn <name>.png and a <name>_labels.png, whose pixels are class indices, per image.
"""

import argparse
import glob
import os
import sys
from itertools import chain, count
from pathlib import Path

import mmcv
import mmengine
import numpy as np
import torch
from _common import UserError, blame, load_config, run, write_whole

from internimage.inference import ImageError, describe, draw, load_model, predict, read_image


def main() -> None:
    args = parse_args()
    files = find_files(args.images)
    out_dir = Path(args.out_dir)
    if any(file.parent.resolve() == out_dir.resolve() for file in files):
        raise UserError(f'--out-dir {out_dir} is the folder of the images: drawings could overwrite them')
    device = find_device(args.device)
    cfg = load_config(args.config)
    with blame(f'config {args.config}: model'):
        model = load_model(cfg, args.checkpoint, device)

    records, names, skipped = [], set(), 0
    progress = mmengine.ProgressBar(len(files), file=sys.stdout)
    for file in files:
        try:
            image = read_image(file)
        except ImageError as error:
            print(f'\nskipped {error}', file=sys.stderr)
            skipped += 1
        else:
            result = predict(model, image)
            name = unique(file, names)
            draw(model, image, result, args.score_thr, out_dir / f'{name}.png')
            if 'pred_sem_seg' in result:
                labels = result.pred_sem_seg.data[0].cpu().numpy()
                pixel = np.uint8 if labels.max() < 256 else np.uint16
                mmcv.imwrite(labels.astype(pixel), str(out_dir / f'{name}_labels.png'))
            else:
                predictions = describe(result, model.dataset_meta['classes'], args.score_thr)
                records.append(dict(file=str(file), size=list(image.shape[:2]), predictions=predictions))
        progress.update()
    print()

    if skipped == len(files):
        raise UserError(f'none of the {len(files)} files of {" ".join(args.images)} is an image')
    if records:
        write_whole(records, out_dir / 'predictions.json')
    print(f'{len(files) - skipped} images done, {skipped} skipped; results in {out_dir}')


def find_files(patterns: list[str]) -> list[Path]:
    """The files that images, folders (their visible files) and globs name, sorted within each."""
    files = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            found = [child for child in path.iterdir() if child.is_file() and not child.name.startswith('.')]
        elif path.exists():
            found = [path]
        else:
            found = [Path(match) for match in glob.glob(str(path), recursive=True) if os.path.isfile(match)]
        if not found:
            raise UserError(f'no file found for {pattern}')
        files += sorted(found)
    return files


def find_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'--device {name}: {str(error).splitlines()[0]}') from error
    return device


def unique(file: Path, taken: set[str]) -> str:
    """An output name for the image: its stem, then its full name, then numbered; `taken` grows by it."""
    numbered = (f'{file.name}_{number}' for number in count(2))
    name = next(name for name in chain((file.stem, file.name), numbered) if name not in taken)
    taken.update((name, f'{name}_labels'))
    return name


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('images', nargs='+', help='an image, a folder or a glob')
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out-dir', default='outputs', help='folder for the results (default: %(default)s)')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='leave out boxes up to this score (default: %(default)s)'
    )
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)',
    )
    return parser.parse_args()


if __name__ == '__main__':
    run(main)
