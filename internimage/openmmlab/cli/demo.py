"""`make demo`: generate data, train a small detector and a small segmentor, evaluate them, draw what they find.

    internimage demo [--out-dir DIR]

Every step is one of the commands as a user would call it; they are printed. Data go to ./data/shapes.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import cv2
import matplotlib
import numpy as np

matplotlib.use('Agg')
import matplotlib.pyplot as plt

# The detector starts from the segmentor's backbone: a few hundred iterations suffice then.
MODELS = {
    'UPerNet': ('upernet_internimage_small_shapes', {'mIoU': 'mIoU (%)'}),
    'Mask R-CNN': ('mask_rcnn_internimage_small_shapes', {'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP'}),
}
# A line of mmengine's log: phase, where in it, time left, and in training the loss.
PROGRESS = re.compile(r'(?:Epoch|Iter)\((\w+)\)\s+(\[[^a-z]*\]).*?eta: ([\d:]+)(?:.*? loss: ([\d.]+))?')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out-dir', help='new folder for everything that comes out (default: work_dirs/demo-<time>)')
    args = parser.parse_args()
    out = Path(args.out_dir or Path('work_dirs', time.strftime('demo-%Y%m%d-%H%M%S'))).resolve()
    out.mkdir(parents=True)
    print(f'The demo takes about 8 minutes on 2 cores. Everything goes to {out}\n')

    rows, start = [], time.monotonic()
    for title, (name, metrics) in MODELS.items():
        config, folder = f'demo/{name}', out / name
        start_from = ['--backbone', rows[-1][-1]] if rows else []
        seconds = {}
        seconds['train'] = call(f'{title}: training', folder, 'train', config, '--work-dir', folder, *start_from)
        checkpoint = folder / Path((folder / 'last_checkpoint').read_text()).name
        seconds['test'] = call(
            f'{title}: evaluation', folder, 'test', config, checkpoint, '--work-dir', folder / 'test'
        )
        images = Path('data', 'shapes') / 'images' / 'val' / '00000*.png'
        pictures = ['--out-dir', folder / 'pictures', '--score-thr', 0.5]
        seconds['infer'] = call(f'{title}: inference', folder, 'infer', images, config, checkpoint, *pictures)
        found = evaluation(folder / 'test')
        rows.append((title, [f'{label} {found[key]:.3g}' for key, label in metrics.items()], seconds, checkpoint))
    name, _ = MODELS[title]
    image = Path('data', 'shapes') / 'images' / 'val' / '000001.png'
    views = ['--top', 1, '--score-thr', 0.05, '--out-dir', out / 'support']
    call('What the detector looks at', out / 'support', 'analyze-support', image, f'demo/{name}', checkpoint, *views)
    plot(out)
    overview(out)

    print(f'\n{"model":<12}{"on the val images":<34}{"train":>8}{"test":>8}{"infer":>8}')
    for title, scores, seconds, _ in rows:
        print(f'{title:<12}{", ".join(scores):<34}' + ''.join(f'{value:>6.0f} s' for value in seconds.values()))
    print(f'\nIn {out}:')
    for what, where in (
        ('pictures of both models', 'overview.png'),
        ('loss and accuracy', 'curves.png'),
        ('what the detector looks at', 'support/000001_0.png (docs/spatial_support.md says how to read it)'),
        ('all drawn images, results', '*/pictures/'),
        ('checkpoints', ', '.join(str(checkpoint.relative_to(out)) for *_, checkpoint in rows)),
        ('full logs', '*/train.log, */test.log, */infer.log'),
    ):
        print(f'  {what:<28}{where}')
    print(f'\n{(time.monotonic() - start) / 60:.1f} minutes in all.')


def call(title: str, folder: Path, tool: str, *arguments) -> float:
    """Runs a tool, its output in a log, its progress on the screen. Returns the seconds it took."""
    log = folder / f'{tool}.log'
    command = [sys.executable, '-m', 'internimage', tool, *map(str, arguments)]
    shown = [relative(part) for part in command[3:]]
    print(f'{title}\n  internimage {shlex.join(shown)}', flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    start = last = time.monotonic()
    with (
        log.open('w') as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        for line in process.stdout:
            file.write(line)
            progress = PROGRESS.search(line)
            if progress and time.monotonic() - last > 10:
                last = time.monotonic()
                phase, where, left, loss = progress.groups()
                print(f'  {phase} {where}, {left} left' + (f', loss {loss}' if loss else ''), flush=True)
    seconds = time.monotonic() - start
    print(f'  done in {seconds:.0f} s', flush=True)
    if process.returncode:
        print(''.join(log.read_text().splitlines(keepends=True)[-15:]), file=sys.stderr)
        sys.exit(f'error: {title} failed; the whole log is {log}')
    return seconds


def relative(part: str) -> str:
    path = Path(part)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else part


def evaluation(work_dir: Path) -> dict:
    """The metrics that `internimage test` left."""
    (file,) = work_dir.glob('*/*.json')
    return json.loads(file.read_text())


def scalars(work_dir: Path) -> list[dict]:
    (file,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


def plot(out: Path) -> None:
    figure, axes = plt.subplots(2, len(MODELS), figsize=(10, 6), constrained_layout=True)
    for column, (title, (name, metrics)) in enumerate(MODELS.items()):
        records = scalars(out / name)
        losses = [record for record in records if 'loss' in record]
        axes[0, column].plot(range(10, 10 * len(losses) + 1, 10), [record['loss'] for record in losses])
        axes[0, column].set(title=f'{title}: loss', xlabel='iteration', ylim=(0, None))
        for key, label in metrics.items():
            points = [(record['step'], record[key]) for record in records if key in record]
            axes[1, column].plot(*zip(*points, strict=True), marker='o', label=label)
        by_epoch = 'epoch' in losses[0]
        axes[1, column].set(title=f'{title}: accuracy', xlabel='epoch' if by_epoch else 'iteration', ylim=(0, None))
        axes[1, column].legend(loc='lower right')
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.savefig(out / 'curves.png', dpi=110)


def overview(out: Path, columns: int = 4) -> None:
    """One picture: a row of detections over a row of label maps, on the same images."""
    rows = []
    for name, _ in reversed(MODELS.values()):
        pictures = sorted((out / name / 'pictures').glob('00000*.png'))
        pictures = [picture for picture in pictures if 'label' not in picture.stem][:columns]
        rows.append(np.hstack([cv2.imread(str(picture)) for picture in pictures]))
    cv2.imwrite(
        str(out / 'overview.png'), cv2.resize(np.vstack(rows), None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    )
