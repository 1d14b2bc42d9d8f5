"""Run a trained model on images.

    internimage infer IMAGES CONFIG CHECKPOINT [--out-dir DIR] [--score-thr 0.3] [--device cpu] [--cfg-options ...]

IMAGES is one image, a folder or a glob. A detector writes a drawing <name>.png per image and one predictions.json; a
segmentation model a drawing <name>.png and a <name>_labels.png, whose pixels are class indices, per image.

An image that fails is named and left out, and the exit code is 1. If the run is interrupted, predictions.json holds the
images that are done; if it is killed, they are in predictions.part.jsonl, one per line.
"""

import argparse
import glob
import json
import os
import sys
from itertools import chain, count
from pathlib import Path

import cv2
import mmengine
import numpy as np
import torch
from torch import nn

from ...files import whole_file
from ..cfg_options import CfgOptions
from ..images import write_image
from ..inference import ImageError, describe, draw, load_model, predict, read_image
from .common import UserError, blame, check_writable, load_config, one_line_errors


@one_line_errors
def main() -> None:
    args = parse_args()
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr {args.score_thr:g} must be between 0 and 1')
    files = find_files(args.images)
    out_dir = Path(args.out_dir)
    if any(file.parent.resolve() == out_dir.resolve() for file in files):
        raise UserError(f'--out-dir {out_dir} is the folder of the images: drawings could overwrite them')
    check_writable(out_dir, '--out-dir')
    device = find_device(args.device)
    cfg = load_config(args.config, args.cfg_options)
    with blame(f'config {args.config}: model'):
        model = load_model(cfg, args.checkpoint, device)

    results, done, skipped, failed, names = Records(out_dir / 'predictions.json'), 0, 0, 0, set()
    progress = mmengine.ProgressBar(len(files), file=sys.stdout)
    try:
        for file in files:
            try:
                image = read_image(file)
                drawn, labels, record = infer(model, file, image, args.score_thr)
            except ImageError as error:
                print(f'\nskipped {error}', file=sys.stderr)
                skipped += 1
            except Exception as error:  # of any kind: the other images are still done
                print(f'\nfailed {file}: {one_line(error)}', file=sys.stderr)
                failed += 1
            else:
                name = unique(file, names)
                write_image(drawn, out_dir / f'{name}.png')
                if labels is not None:
                    write_image(labels, out_dir / f'{name}_labels.png')
                else:
                    results.add(record)
                done += 1
            progress.update()
        print()
    except OSError as error:
        raise UserError(
            f'{error.filename or out_dir}: {error.strerror}; {done} of {len(files)} images are done'
        ) from error
    except KeyboardInterrupt:
        print(f'\ninterrupted: {done} of {len(files)} images are done', file=sys.stderr)
        sys.exit(130)
    finally:
        results.close()

    if skipped == len(files):
        raise UserError(f'none of the {len(files)} files of {" ".join(args.images)} is an image')
    if not done:
        raise UserError(f'no image was done: {skipped} skipped, {failed} failed')
    print(f'{done} images done, {skipped} skipped, {failed} failed; results in {out_dir}')
    if failed:
        sys.exit(1)


def infer(model: nn.Module, file: Path, image: np.ndarray, score_thr: float) -> tuple:
    """The drawing (BGR), and the label map of a segmentor or the record of a detector; the other is None."""
    result = predict(model, image, rle_masks=True)
    classes = model.dataset_meta['classes']
    drawn = cv2.cvtColor(draw(model, image, result, score_thr), cv2.COLOR_RGB2BGR)
    if 'pred_sem_seg' in result:
        pixel = np.uint8 if len(classes) <= 256 else np.uint16
        return drawn, result.pred_sem_seg.data[0].cpu().numpy().astype(pixel), None
    predictions = describe(result, classes, score_thr)
    return drawn, None, dict(file=str(file), size=list(image.shape[:2]), predictions=predictions)


class Records:
    """A JSON list that is on disk, item by item, from the beginning: in `<name>.part.jsonl`, from which `close` makes
    the file. Without items no file is written."""

    def __init__(self, path: Path):
        self.path = path
        self.part = path.with_suffix('.part.jsonl')
        self.stream = None

    def add(self, record: dict) -> None:
        line = json.dumps(record)
        if self.stream is None:
            self.stream = self.part.open('w')
        self.stream.write(line + '\n')
        self.stream.flush()

    def close(self) -> None:
        if self.stream is None:
            return
        self.stream.close()
        with whole_file(self.path) as whole, self.part.open() as lines, whole.open('w') as stream:
            for number, line in enumerate(lines):
                stream.write((',\n' if number else '[') + line.rstrip('\n'))
            stream.write(']\n')
        self.part.unlink()


def one_line(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'


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
    """The device, after a try to allocate on it.

    Raises:
        UserError: there is no such device.
    """
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
        '--score-thr', type=float, default=0.3, help='leave out boxes with at most this score (default: %(default)s)'
    )
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)',
    )
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='override the config')
    return parser.parse_args()
