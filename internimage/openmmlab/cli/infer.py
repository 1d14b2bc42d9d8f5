"""Run a trained model on images and videos.

    internimage infer IMAGES CONFIG CHECKPOINT [--out-dir DIR] [--score-thr 0.3] [--device cpu] [--cfg-options ...]

IMAGES is an image, a folder, a glob, an http(s) address, a video file or `camera:0`. A detector writes a drawing
<name>.png per image and one predictions.json; a segmentation model a drawing <name>.png and a <name>_labels.png, whose
pixels are class indices, per image. Of a video the drawing is a video, <name>.mp4.

An image that fails is named and left out, and the exit code is 1. If the run is interrupted, predictions.json holds the
images that are done; if it is killed, they are in predictions.part.jsonl, one per line.
"""

import argparse
import json
import os
import sys
from contextlib import closing
from itertools import chain, count
from pathlib import Path

import cv2
import mmengine
import torch

from ...files import whole_file
from ..cfg_options import CfgOptions
from ..images import find_files, is_image_address, write_bytes, write_image
from ..inference import ImageError, read_image
from ..predictor import Predictor
from ..predictor import find_device as _find_device
from ..results import Results, to_coco
from ..tiles import check_tiles
from ..video import VideoReader, is_video
from .common import UserError, blame, check_writable, load_config, one_line_errors

FORMATS = ('coco', 'labelme', 'yolo')
CAMERA = 'camera:'


@one_line_errors
def main() -> None:
    args = parse_args()
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr {args.score_thr:g} must be between 0 and 1')
    if args.batch_size < 1:
        raise UserError(f'--batch-size {args.batch_size} must be at least 1')
    with blame('--tile, --overlap'):
        check_tiles(args.tile, args.overlap)
    sources = find_sources(args.images)
    out_dir = Path(args.out_dir)
    if any(isinstance(source, Path) and source.parent.resolve() == out_dir.resolve() for source in sources):
        raise UserError(f'--out-dir {out_dir} is the folder of the images: drawings could overwrite them')
    check_writable(out_dir, '--out-dir')
    find_device(args.device)
    cfg = load_config(args.config, args.cfg_options)
    with blame(f'config {args.config}: model'):
        predictor = Predictor(
            cfg, args.checkpoint, args.device, args.dtype, batch_size=args.batch_size, tta=args.tta
        )  # fmt: skip

    run = Run(predictor, out_dir, args)
    try:
        run.all(sources)
    except OSError as error:
        raise UserError(
            f'{error.filename or out_dir}: {error.strerror}; {run.done} of {len(sources)} images are done'
        ) from error
    except KeyboardInterrupt:
        print(f'\ninterrupted: {run.done} of {len(sources)} images are done', file=sys.stderr)
        sys.exit(130)
    finally:
        run.close()

    if run.skipped == len(sources):
        raise UserError(f'none of the {len(sources)} files of {" ".join(args.images)} is an image')
    if not run.done:
        raise UserError(f'no image was done: {run.skipped} skipped, {run.failed} failed')
    print(f'{run.done} images done, {run.skipped} skipped, {run.failed} failed; results in {out_dir}')
    if run.failed:
        sys.exit(1)


class Run:
    """What is done with each image, and how many there were."""

    def __init__(self, predictor: Predictor, out_dir: Path, args: argparse.Namespace):
        self.predictor, self.out_dir, self.args = predictor, out_dir, args
        self.options = dict(score_thr=args.score_thr, tile=args.tile, overlap=args.overlap)
        self.records, self.coco = Records(out_dir / 'predictions.json'), []
        self.names, self.done, self.skipped, self.failed = set(), 0, 0, 0

    def all(self, sources: list) -> None:
        self.progress = mmengine.ProgressBar(sum(map(frames, sources)), file=sys.stdout)
        batch = []
        for source in sources:
            if is_video(source) or isinstance(source, int):
                self.attempt(source, lambda source=source: self.video(source))
                continue
            try:
                batch.append((source, read_image(source)))
            except ImageError as error:
                self.skip(error)
                self.progress.update()
            if len(batch) == self.args.batch_size:
                self.images(batch)
                batch = []
        self.images(batch)
        print()

    def images(self, batch: list[tuple]) -> None:
        """Predicts the batch at once; where that fails, one image at a time."""
        if len(batch) > 1:
            try:
                results = predict(self.predictor, [image for _, image in batch], **self.options)
            except Exception:
                results = [None] * len(batch)
        else:
            results = [None] * len(batch)
        for (source, image), result in zip(batch, results, strict=True):
            self.attempt(source, lambda s=source, i=image, r=result: self.image(s, i, r))
            self.progress.update()

    def image(self, source, image, result: Results | None) -> None:
        if result is None:
            (result,) = predict(self.predictor, [image], **self.options)
        result.path = str(source)
        drawn = cv2.cvtColor(result.plot(self.args.score_thr), cv2.COLOR_RGB2BGR)
        name = unique(Path(str(source).split('?')[0]), self.names)
        write_image(drawn, self.out_dir / f'{name}.png')
        if result.label_map is not None:
            write_image(result.label_map, self.out_dir / f'{name}_labels.png')
        self.record(result, name)
        self.done += 1

    def video(self, source) -> None:
        name = unique(Path(f'camera{source}' if isinstance(source, int) else source), self.names)
        out = self.out_dir / f'{name}.mp4'
        with closing(self.predictor.video(source, out, draw_thr=self.args.score_thr, **self.options)) as results:
            for result in results:
                if result.label_map is not None:
                    write_image(result.label_map, self.out_dir / f'{name}_{result.frame:06}_labels.png')
                self.record(result, f'{name}_{result.frame:06}')
                self.progress.update()
        self.done += 1

    def attempt(self, source, step) -> None:
        """Takes the step; an error of any kind is said, and the other images are still done."""
        try:
            step()
        except ImageError as error:
            self.skip(error)
        except OSError:  # of the outputs
            raise
        except Exception as error:
            self.fail(source, error)

    def skip(self, error: ImageError) -> None:
        print(f'\nskipped {error}', file=sys.stderr)
        self.skipped += 1

    def fail(self, source, error: Exception) -> None:
        print(f'\nfailed {source}: {one_line(error)}', file=sys.stderr)
        self.failed += 1

    def record(self, result: Results, name: str) -> None:
        if result.label_map is None:
            frame = {} if result.frame is None else {'frame': result.frame}
            predictions = result.records()
            self.records.add(dict(file=result.path, **frame, size=list(result.shape), predictions=predictions))
        if 'coco' in self.args.format:
            self.coco.append(result)
            result.forget_image()
        if 'labelme' in self.args.format:
            content = result.to_labelme()
            if result.frame is None and os.path.exists(result.path):  # LabelMe looks for it beside its own file
                content['imagePath'] = os.path.relpath(result.path, self.out_dir)
            write_bytes(json.dumps(content).encode(), self.out_dir / f'{name}.json')
        if 'yolo' in self.args.format:
            write_bytes(result.to_yolo().encode(), self.out_dir / f'{name}.txt')

    def close(self) -> None:
        self.records.close()
        if self.coco:
            write_bytes(json.dumps(to_coco(self.coco)).encode(), self.out_dir / 'coco.json')
        if self.done and 'yolo' in self.args.format:
            write_bytes('\n'.join((*self.predictor.names, '')).encode(), self.out_dir / 'classes.txt')


def predict(predictor: Predictor, images: list, **options) -> list[Results]:
    return predictor.predict(images, **options)


def frames(source) -> int:
    """How many steps of the progress bar a source takes."""
    if not is_video(source):
        return 1
    try:
        return VideoReader(source).frames or 1
    except ImageError:
        return 1  # is said later


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


def find_sources(patterns: list[str]) -> list:
    """The addresses, the files that images, folders (their visible files) and globs name, sorted within each, and the
    numbers of cameras."""
    sources = []
    for pattern in patterns:
        if is_image_address(pattern):
            sources.append(pattern)
        elif pattern.startswith(CAMERA) and pattern.removeprefix(CAMERA).isdecimal():
            sources.append(int(pattern.removeprefix(CAMERA)))
        else:
            sources += find_files([pattern])
    return sources


def find_device(name: str) -> torch.device:
    """The device, after a try to allocate on it.

    Raises:
        UserError: there is no such device.
    """
    try:
        return _find_device(name)
    except ValueError as error:
        raise UserError(f'--{error}') from error


def unique(file: Path, taken: set[str]) -> str:
    """An output name for the image: its stem, then its full name, then numbered; `taken` grows by it."""
    numbered = (f'{file.name}_{number}' for number in count(2))
    name = next(name for name in chain((file.stem, file.name), numbered) if name not in taken)
    taken.update((name, f'{name}_labels'))
    return name


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('images', nargs='+', help='an image, a folder, a glob, an http(s) address, a video or camera:0')
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
    parser.add_argument('--dtype', choices=('float32', 'float16', 'bfloat16'), help='of the network')
    parser.add_argument('--batch-size', type=int, default=1, help='images that run together (default: %(default)s)')
    parser.add_argument('--tile', type=int, metavar='PIXELS', help='predict large images in tiles of this side')
    parser.add_argument(
        '--overlap', type=float, default=0.2, help='part of its side that a tile shares with the next (%(default)s)'
    )
    parser.add_argument('--tta', action='store_true', help='average several views of each image')
    parser.add_argument(
        '--format',
        nargs='+',
        default=[],
        choices=FORMATS,
        help='write the results in these formats, too: coco.json, <name>.json of LabelMe, <name>.txt of YOLO',
    )
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='override the config')
    return parser.parse_args()
