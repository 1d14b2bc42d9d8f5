"""Make a config from a folder of images and annotations, with a report on the data.

    internimage new DATA [--task det|inst|sem] [--model mask_rcnn_t] [--out DIR] [--classes NAME ...] [--val 0.2]

DATA holds COCO json, YOLO txt (with or without a yaml), LabelMe json, Pascal VOC xml (so do exports of Roboflow), or
images with label maps: class indices, 0 and 255, RGB colours; numbers of objects with --task inst. Images stay where
they are. Into the new folder go the config, a report to be opened in a browser, and annotations in COCO's format
where the data have others.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import mmengine

from ...errors import UserError
from ...files import whole_file
from ..datasets import checks
from ..datasets.checks.errors import DataError
from ..own_data import Found, Problem, read_folder
from ..own_data.config import MODELS, choose_base, class_counts, config_text, lines_for
from ..own_data.pictures import check_pictures, split, to_coco
from ..own_data.report import TASKS, report
from ..pages import write_page
from .common import check_writable, load_config, one_line_errors


@one_line_errors
def main() -> None:
    args = parse_args()
    start = time.time()
    if not os.path.isdir(args.data):
        raise UserError(f'{args.data} is not a folder')
    if not 0 < args.val < 1:
        raise UserError(f'--val {args.val:g} must be between 0 and 1')
    name = os.path.basename(os.path.abspath(args.data))
    out = Path(args.out or Path('work_dirs', name))
    check_writable(out, '--out')
    model = args.model or ''
    print(f'reading {args.data}')
    found = read_folder(args.data, args.task, args.classes)
    task = args.task or ('sem' if found.is_segmentation else 'inst' if found.has_masks else 'det')
    if task == 'det':
        found.has_masks = False if not _takes_masks(model) else found.has_masks
    base = choose_base(task, args.model, found.has_masks)
    config = out / f'{name}_{Path(base).stem if args.model not in MODELS else args.model}.py'
    if config.exists() and not args.overwrite:
        raise UserError(f'{config} exists: --overwrite replaces it, --out names another folder')
    pictures = sum(map(len, found.parts.values()))
    print(f'{found.format}: {pictures} pictures, {len(found.classes)} classes; reading the pictures')
    progress = mmengine.ProgressBar(pictures, file=sys.stdout)
    changed = check_pictures(found, progress)
    print()
    _check_enough(found)
    was_split = 'val' not in found.parts
    split(found, args.val)
    files = write_annotations(found, out, changed, was_split)
    lines = lines_for(found, task, base, out, files)
    comment = f'{TASKS[task].capitalize()} on {name}, by `internimage new`, to be edited; the data: report.html.'
    text = config_text(lines, base, comment)
    write_page(text, config)
    found.problems += check_config(str(config))
    scale = next(line.value for line in lines if line.name == 'image_scale')
    checkpoint = Path('work_dirs', config.stem, 'best_*.pth')
    commands = '\n'.join(
        f'internimage {each}'
        for each in (f'browse {config}', f'train {config}', f'test {config} {checkpoint} --report')
    )
    write_page(report(found, task, text, str(config), commands, scale), out / 'report.html')
    tell(found, task, out, config, commands, time.time() - start)


def _takes_masks(model: str) -> bool:
    return 'mask' in model


def _check_enough(found: Found) -> None:
    left = sum(map(len, found.parts.values()))
    if left < 2:
        first = next((f'; {each.where}: {each.kind} ({each.detail})' for each in found.problems), '')
        raise UserError(f'{found.root}: {left} usable pictures, and two are needed, to train and to evaluate{first}')


def write_annotations(found: Found, out: Path, changed: set[str], was_split: bool) -> dict[str, str]:
    """Writes what the config needs beside it: COCO json, or lists of the label maps that are used. A file in COCO's
    format of which nothing had to be left out is used where it is.

    Returns:
        {part: the file}, none where the folder of label maps is used as a whole.
    """
    files = {}
    for part, pictures in found.parts.items():
        if found.is_segmentation:
            folder = os.listdir(found.folders[part][0])
            if was_split or len(pictures) < sum(name.endswith(found.image_suffix) for name in folder):
                path = (out / f'{part}.txt').resolve()
                names = [Path(picture.path).stem for picture in pictures]
                write_page('\n'.join(names) + '\n', path)
                files[part] = str(path)
        elif part in found.annotation_files and part not in changed and not (was_split and part in ('train', 'val')):
            files[part] = os.path.relpath(found.annotation_files[part], found.root)
        else:
            found.annotation_files.pop(part, None)
            path = (out / f'{part}.json').resolve()
            with whole_file(path) as file:
                file.write_text(json.dumps(to_coco(pictures, found.classes, found.root)))
            files[part] = str(path)
    return files


def check_config(config: str) -> list[Problem]:
    """What the checks before a run say of the new config."""
    cfg = load_config(config)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            notes = checks.check_data(cfg, 'train', 'val', 'test')
    except DataError as error:
        return [Problem('a run would stop here', config, str(error))]
    return [Problem('note of the check before a run', config, note) for note in notes]


def tell(found: Found, task: str, out: Path, config: Path, commands: str, seconds: float) -> None:
    """The summary on the terminal."""
    counts = class_counts(found)
    for part in ('train', 'val', 'test'):
        if part in found.parts:
            unit = 'labelled pixels' if found.is_segmentation else 'objects'
            print(f'{part:6} {len(found.parts[part])} pictures, {sum(counts[part].values())} {unit}')
    kinds = Counter(problem.kind for problem in found.problems)
    for kind, count in kinds.most_common():
        print(f'problem: {count} x {kind}')
    print(
        f'config  {config}\nreport  {out / "report.html"}\n{seconds:.1f} s. Next:\n'
        + '\n'.join(f'  {line}' for line in commands.splitlines())
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', metavar='DATA', help='folder of images and annotations')
    parser.add_argument(
        '--task', choices=list(TASKS), help='detection, instance or semantic segmentation (default: what the data hold)'
    )
    parser.add_argument(
        '--model', help=f'one of {", ".join(MODELS)}, or a config (default: dino_t, mask_rcnn_t, upernet_t)'
    )
    parser.add_argument(
        '--out', metavar='DIR', help='folder for config, report and annotations (default: work_dirs/<name of DATA>)'
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='names of the classes, in the order of their indices, where the data have none',
    )
    parser.add_argument(
        '--val',
        type=float,
        default=0.2,
        help='part of the pictures for validation, if the data have none (default: %(default)s)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace a config of the same name')
    return parser.parse_args()
