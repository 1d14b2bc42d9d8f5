"""Show what a trained model looks at: the three views of spatial support (docs/spatial_support.md).

    internimage analyze-support IMAGES CONFIG CHECKPOINT [--point X Y | --box X1 Y1 X2 Y2 | --top K] [--module NAME]
                                [--view erf sampling saliency] [--out-dir DIR]
    internimage analyze-support CONFIG CHECKPOINT --dataset N [--top K]

What is asked about, the node: the best detections (--top, the default of detectors), a box, or a point. A point is, of
a segmentor, the score of the class that it sees there; else, or with --module, a pixel of a feature map. With --dataset
it is true objects of the first N images of the test data: the K largest of each, by their class's score at their box;
of a segmentor the middle of the K largest regions.

For each node: one picture with the views side by side, one with the sampling points of every layer, an npz file of each
view; and support.json with all numbers.
"""

import argparse
import json
import sys
from pathlib import Path

import mmengine
import numpy as np
import torch
from mmengine.registry import DATASETS
from mmseg.models import BaseSegmentor

from ...analysis import (
    SupportError,
    effective_receptive_field,
    effective_sampling_locations,
    layer_points,
    offset_numbers,
    salient_region,
)
from ...analysis.support.nodes import find_module
from ...analysis.support.views import find_layers
from ...files import whole_file
from ..cfg_options import CfgOptions
from ..configuration import leaf_datasets
from ..images import find_files
from ..inference import load_model, read_image
from ..support import (
    Question,
    ask_about_box,
    ask_about_detections,
    ask_about_point,
    draw_layers,
    draw_views,
    layer_names,
    prepare,
)
from .common import UserError, blame, check_writable, load_config, one_line_errors, scope
from .infer import find_device, unique

VIEWS = ('erf', 'sampling', 'saliency')


@one_line_errors
def main() -> None:
    args = parse_args()
    out_dir = Path(args.out_dir)
    check_writable(out_dir, '--out-dir')
    device = find_device(args.device)
    cfg = load_config(args.config, args.cfg_options)
    with blame(f'config {args.config}: model'):
        model = load_model(cfg, args.checkpoint, device)
    layers = layer_names(model, args.layers)
    if 'sampling' in args.view:
        try:
            find_layers(model, layers)
        except SupportError as error:
            raise UserError(f"{error}: give --layers 'backbone.layer[234].*.conv2', or leave out the view") from error
    if args.module:
        find_module(model, split_module(args.module)[0])
    if args.dataset:
        asked = list(true_objects(model, cfg, args))
    else:
        files = find_files(args.images)
        asked = [pair for file in files for pair in questions(model, file, args)]
    if not asked:
        raise UserError(
            f'no detection above the threshold: none of the images has one with a score over {args.score_thr:g}; lower '
            '--score-thr, or give --point or --box'
        )

    records, names, last = [], set(), None
    progress = mmengine.ProgressBar(len(asked) * len(args.view), file=sys.stdout)
    try:
        for number, (file, prepared, question) in enumerate(asked):
            if file != last:
                stem, last = unique(Path(file), names), file
            name = f'{stem}_{number}'
            record = dict(image=str(file), node=question.title, box=question.box, point=question.point)
            record['scale'] = prepared.scale
            views = {}
            for kind in args.view:
                views[kind] = view_of(kind, model, prepared, question, layers, args)
                views[kind].save(out_dir / f'{name}_{kind}.npz')
                record[kind] = numbers_of(views[kind], prepared, question)
                progress.update()
            draw_views(prepared, question, list(views.values()), out_dir / f'{name}.png')
            if 'sampling' in views:
                record['layers'] = [vars(one) for one in offset_numbers(model, prepared.input, question.node, layers)]
                points = layer_points(model, prepared.input, middle_of(question), question.node, layers)
                if points:
                    draw_layers(prepared, question, points, out_dir / f'{name}_layers.png')
            records.append(record)
            with whole_file(out_dir / 'support.json') as part:
                part.write_text(json.dumps(records, indent=1) + '\n')
    except UserError:
        print()  # the line of the progress bar ends
        raise
    except OSError as error:
        raise UserError(f'{error.filename or out_dir}: {error.strerror}; {len(records)} nodes are done') from error
    except KeyboardInterrupt:
        print(f'\ninterrupted: {len(records)} of {len(asked)} nodes are done', file=sys.stderr)
        sys.exit(130)
    print()
    print(table(records, args.view))
    print(f'{len(records)} nodes; pictures, arrays and support.json in {out_dir}')


def questions(model, file: Path, args: argparse.Namespace):
    """(file, prepared image, question) of every node of an image."""
    image = read_image(file)
    prepared = prepare(model, image)
    height, width = image.shape[:2]
    if args.point:
        if not (0 <= args.point[0] < width and 0 <= args.point[1] < height):
            raise UserError(f'--point must be inside the image of {width} x {height} pixels, got {args.point}')
        found = [ask_about_point(model, image, prepared, args.point, *split_module(args.module))]
    elif args.box:
        x1, y1, x2, y2 = args.box
        if not (x1 < x2 and y1 < y2):
            raise UserError(f'--box must have an area, X1 < X2 and Y1 < Y2, got {args.box}')
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            raise UserError(f'--box must be on the image of {width} x {height} pixels, got {args.box}')
        classes = len(model.dataset_meta['classes'])
        if args.label is not None and not 0 <= args.label < classes:
            raise UserError(f'--label must be from 0 to {classes - 1}, got {args.label}')
        found = [ask_about_box(model, prepared, args.box, args.label, of=args.of)]
    elif isinstance(model, BaseSegmentor):
        raise UserError('a segmentor has no detections: give --point X Y')
    else:
        found = ask_about_detections(model, image, prepared, args.top, args.score_thr)
        if not found:
            print(f'note: {file}: no detection above the threshold {args.score_thr:g}')
    return [(file, prepared, question) for question in found]


def split_module(name: str | None) -> tuple:
    """'backbone:2' -> ('backbone', 2)."""
    if name is None:
        return None, 0
    module, _, index = name.partition(':')
    try:
        return module, int(index or 0)
    except ValueError:
        raise UserError(f'--module must be NAME or NAME:INDEX, got {name}') from None


def true_objects(model, cfg, args: argparse.Namespace):
    """The same of the true objects of the first images of the test data: mask or box, the largest ones."""
    with scope(cfg), blame(f'config {args.config}: test_dataloader'):
        part = next(leaf_datasets(cfg.test_dataloader.dataset))
        pipeline = [step for step in part.pipeline if 'Load' in str(step['type']) or 'Pack' in str(step['type'])]
        if not any('Annotations' in str(step['type']) for step in pipeline):
            pipeline.insert(1, dict(type='LoadAnnotations'))
        dataset = DATASETS.build({**part, 'pipeline': pipeline})
    if not len(dataset):
        raise UserError(f'config {args.config}: the test data set has no images')
    for index in range(min(args.dataset, len(dataset))):
        sample = dataset[index]['data_samples']
        file = sample.img_path
        image = read_image(file)
        prepared = prepare(model, image)
        if isinstance(model, BaseSegmentor):
            found = true_regions(model, image, prepared, sample.gt_sem_seg.data[0].numpy(), args.top)
        else:
            found = true_boxes(model, prepared, sample.gt_instances, args.top)
        yield from ((file, prepared, question) for question in found)


def true_boxes(model, prepared, truth, top: int) -> list[Question]:
    boxes = truth.bboxes.tensor if hasattr(truth.bboxes, 'tensor') else truth.bboxes
    boxes = torch.as_tensor(boxes).float()
    sides = boxes[:, 2:] - boxes[:, :2]
    order = sides.prod(1).argsort(descending=True)
    order = [i for i in order.tolist() if sides[i].min() > 0][:top]
    masks = truth.masks.masks if 'masks' in truth and hasattr(truth.masks, 'masks') else None
    return [
        ask_about_box(
            model, prepared, boxes[i].tolist(), int(truth.labels[i]), None if masks is None else masks[i].astype(bool)
        )
        for i in order
    ]


def true_regions(model, image, prepared, labels: np.ndarray, top: int) -> list[Question]:
    """At the pixel of each of the largest true classes that is furthest from its border."""
    import cv2

    classes = range(len(model.dataset_meta['classes']))
    areas = sorted(((int((labels == label).sum()), label) for label in classes), reverse=True)
    found = []
    for area, label in areas[:top]:
        if area:
            distance = cv2.distanceTransform(np.pad((labels == label).astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
            row, column = np.unravel_index(distance.argmax(), distance.shape)
            question = ask_about_point(model, image, prepared, (float(column), float(row)))
            question.object = prepared.mask(labels == label)
            found.append(question)
    return found


def view_of(kind: str, model, prepared, question: Question, layers, args: argparse.Namespace):
    image, node = prepared.input, question.node
    if kind == 'erf':
        return effective_receptive_field(model, image, node, projections=args.projections, seed=args.seed)
    if kind == 'sampling':
        options = dict(strongest=args.strongest, projections=args.projections, seed=args.seed)
        return effective_sampling_locations(model, image, node, layers=layers, **options)
    fill = 'blur' if args.fill == 'blur' else prepared.fill
    return salient_region(model, image, node, args.bound, args.cell, fill=fill)


def numbers_of(view, prepared, question: Question) -> dict:
    """The numbers of a view, ready for JSON; areas by that of the image."""
    height, width = prepared.picture.shape[:2]
    numbers = dict(area=view.area() / (height * width))
    inside = float('nan') if question.object is None else view.inside(question.object)
    numbers['inside'] = None if np.isnan(inside) else inside
    for name in ('standard_error', 'projections', 'share', 'samples', 'error', 'bound', 'cell', 'evaluations'):
        if hasattr(view, name):
            numbers[name] = getattr(view, name)
    if hasattr(view, 'layer_strength'):
        total = max(view.layer_strength.sum(), 1e-30)
        numbers['layers'] = {
            name: float(value / total) for name, value in zip(view.layers, view.layer_strength, strict=True)
        }
    if question.object is not None:
        numbers['object'] = float(question.object.sum() / (height * width))
    return numbers


def middle_of(question: Question) -> tuple[float, float]:
    """Where the node is, in pixels of the input."""
    if question.point is not None:
        return question.point
    x1, y1, x2, y2 = question.box
    return (x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2


def table(records: list[dict], views: list[str]) -> str:
    """The mean of the numbers over all nodes."""
    lines = [f'{"view":<10}{"area":>10}{"inside the object":>20}   (means over {len(records)} nodes)']
    for view in views:
        area = np.mean([record[view]['area'] for record in records])
        inside = [record[view]['inside'] for record in records if record[view]['inside'] is not None]
        inside = f'{100 * np.mean(inside):.1f} %' if inside else '-'
        lines.append(f'{view:<10}{100 * area:>8.1f} %{inside:>20}')
    return '\n'.join(lines)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', nargs='*', help='an image, a folder or a glob; none with --dataset')
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--point', type=float, nargs=2, metavar=('X', 'Y'), help='in pixels of the image')
    parser.add_argument('--box', type=float, nargs=4, metavar=('X1', 'Y1', 'X2', 'Y2'), help='in pixels of the image')
    parser.add_argument('--top', type=int, default=1, metavar='K', help='the K best detections (default: 1)')
    parser.add_argument('--dataset', type=int, metavar='N', help='objects of the first N images of the test data')
    parser.add_argument('--module', metavar='NAME[:INDEX]', help='with --point: a pixel of this feature map')
    parser.add_argument('--label', type=int, metavar='CLASS', help='with --box: the score of this class, by its index')
    parser.add_argument(
        '--of', choices=('pooled', 'shared'), default='shared', help='with --box: which features (default: %(default)s)'
    )
    parser.add_argument('--view', nargs='+', choices=VIEWS, default=list(VIEWS), help='default: all three')
    parser.add_argument(
        '--layers', nargs='+', metavar='PATTERN', help='sampling: modules, plain convolutions too (default: deformable)'
    )
    parser.add_argument('--strongest', type=int, default=1000, metavar='N', help='sampling: samples kept (1000)')
    parser.add_argument('--projections', type=int, default=64, metavar='N', help='of vectors (64)')
    parser.add_argument('--seed', type=int, default=0, help='of the projections (0)')
    parser.add_argument('--bound', type=float, default=0.1, help='saliency: largest error (0.1)')
    parser.add_argument('--cell', type=int, default=16, metavar='PIXELS', help='saliency: side of the cells (16)')
    parser.add_argument('--fill', choices=('mean', 'blur'), default='mean', help='saliency: what is masked becomes')
    parser.add_argument('--score-thr', type=float, default=0.3, help='leave out boxes of at most this score (0.3)')
    parser.add_argument('--out-dir', default='outputs', help='folder for the results (default: %(default)s)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='cpu, cuda, ...')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='override the config')
    args = parser.parse_args()
    if bool(args.images) == bool(args.dataset):
        raise UserError('give IMAGES, or --dataset N with N at least 1, and not both')
    if sum(map(bool, (args.point, args.box, args.dataset))) > 1:
        raise UserError('--point, --box and --dataset exclude each other')
    if args.module and not args.point:
        raise UserError('--module needs --point X Y')
    for name in ('top', 'strongest', 'projections', 'cell'):
        if getattr(args, name) < 1:
            raise UserError(f'--{name} must be at least 1, got {getattr(args, name)}')
    return args
