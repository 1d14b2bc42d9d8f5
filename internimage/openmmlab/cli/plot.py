"""Plot the losses, the learning rate and the metrics of trainings as a PNG.

    internimage plot WORK_DIR [WORK_DIR ...] [--out FILE.png] [--keys NAME ...]

Several folders are drawn over each other. The curves are those of mmengine's log, `vis_data/scalars.json`; runs that
were resumed are joined.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...files import whole_file
from ..pages import axes
from .common import check_writable, one_line_errors

NOT_CURVES = {'epoch', 'iter', 'step', 'time', 'data_time', 'memory'}
SMOOTH = 0.05  # of the curve is the width of the average
Curves = dict[str, tuple[list[float], list[float]]]


@one_line_errors
def main() -> None:
    args = parse_args()
    runs = {folder: read_curves(Path(folder)) for folder in args.work_dirs}
    names = list(dict.fromkeys(name for training, metrics in runs.values() for name in (*training, *metrics)))
    unknown = [key for key in args.keys or () if key not in names]
    if unknown:
        raise UserError(f'--keys {" ".join(unknown)}: there is no such curve; there are {", ".join(names)}')
    out = Path(args.out or Path(args.work_dirs[0], 'curves.png'))
    if out.suffix not in ('.png', '.pdf', '.svg'):
        raise UserError(f'--out {out} must end in .png, .pdf or .svg')
    check_writable(out.parent, '--out')
    shown = args.keys or default_curves(runs)
    drawn = plot(runs, shown)
    with whole_file(out) as part:
        drawn.savefig(part, format=out.suffix[1:], dpi=120, bbox_inches='tight')
    for folder, (_, metrics) in runs.items():
        for name in (name for name in shown if name in metrics):
            steps, values = metrics[name]
            best = int(np.argmax(values))
            print(f'{folder}: {name}: last {values[-1]:g}, best {values[best]:g} at {steps[best]:g}')
    print(out)


def read_curves(folder: Path) -> tuple[Curves, Curves]:
    """The curves of a work folder, {name: (steps, values)}: of training by iteration; of evaluations by epoch, or by
    iteration where the training counts these.

    Raises:
        UserError: there is no log, or it holds nothing yet.
    """
    if not folder.is_dir():
        raise UserError(f'{folder} is not a folder')
    logs = sorted(folder.glob('*/vis_data/scalars.json')) or sorted(folder.glob('vis_data/scalars.json'))
    training, metrics = defaultdict(dict), defaultdict(dict)
    for log in logs:
        for line in log.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            step = record.get('step')
            curves = training if 'lr' in record or 'loss' in record else metrics
            for name, value in record.items():
                if name not in NOT_CURVES and isinstance(value, (int, float)) and step is not None:
                    curves[name][step] = value  # of a step that was done again the last one counts
    if not training and not metrics:
        raise UserError(f'{folder}: no curves: there is no vis_data/scalars.json below it, or it is empty')
    return tuple({name: _sorted(points) for name, points in curves.items()} for curves in (training, metrics))


def _sorted(points: dict) -> tuple[list, list]:
    steps = sorted(points)
    return steps, [points[step] for step in steps]


def default_curves(runs: dict) -> list[str]:
    """The loss and its parts (not those of single decoder layers), the learning rate, and the main metrics."""
    training = dict.fromkeys(name for curves, _ in runs.values() for name in curves)
    metrics = dict.fromkeys(name for _, curves in runs.values() for name in curves)
    losses = [
        name for name in training if 'loss' in name and not name.split('.')[0].startswith(('d0', 'd1', 'd2', 'd3'))
    ]
    main = [
        name
        for name in metrics
        if name.split('/')[-1].startswith(('bbox_mAP', 'segm_mAP', 'mIoU', 'mAcc', 'aAcc', 'mAP'))
    ]
    return [*losses, *(name for name in ('lr',) if name in training), *(main or metrics)][:24]


def plot(runs: dict, names: list[str]):
    """A figure with a field for each curve."""
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    drawn, fields = axes(3.4 * columns, 2.6 * rows, nrows=rows, ncols=columns, squeeze=False)
    for field, name in zip(fields.flat, names, strict=False):
        field.set_title(name, fontsize=9)
        for folder, (training, metrics) in runs.items():
            curve = training.get(name) or metrics.get(name)
            if curve is None:
                continue
            steps, values = curve
            label = Path(folder).name if len(runs) > 1 else None
            if name in training and 'loss' in name and len(values) > 20:
                (line,) = field.plot(steps, values, alpha=0.25, lw=0.8)
                field.plot(steps, smooth(values), color=line.get_color(), label=label)
            else:
                field.plot(steps, values, marker='.' if len(values) < 40 else None, label=label)
        if len(runs) > 1:
            field.legend(frameon=False, fontsize=7)
        field.set_xlabel(
            'iteration' if any(name in training for training, _ in runs.values()) else 'evaluation at', fontsize=8
        )
    for field in fields.flat[len(names) :]:
        field.axis('off')
    drawn.tight_layout()
    return drawn


def smooth(values: list[float]) -> np.ndarray:
    """The centred average over SMOOTH of the curve; at the ends over what is there."""
    width = max(1, round(len(values) * SMOOTH))
    kernel = np.ones(2 * width + 1)
    return np.convolve(values, kernel, 'same') / np.convolve(np.ones(len(values)), kernel, 'same')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work folders of trainings')
    parser.add_argument('--out', metavar='FILE', help='.png, .pdf or .svg (default: curves.png in the first folder)')
    parser.add_argument('--keys', nargs='+', metavar='NAME', help='curves to draw, such as loss coco/bbox_mAP')
    return parser.parse_args()
