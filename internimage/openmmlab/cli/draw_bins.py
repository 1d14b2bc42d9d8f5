"""Draw the bins of deformable RoI pooling for the best detections of an image, with their learned shifts.

    internimage draw-bins IMAGE CONFIG CHECKPOINT [--out FILE] [--score-thr 0.3] [--max-boxes 6]

A ring is the regular centre of a bin, the dot at the end of the line the shifted one; the smaller the dot, the less the
bin weighs (modulated pooling).
"""

import argparse

from ..inference import load_model
from ..roi_bins import draw_roi_bins, roi_bins
from .common import blame, load_config, one_line_errors


@one_line_errors
def main() -> None:
    args = parse_args()
    cfg = load_config(args.config)
    with blame(f'config {args.config}: model'):
        model = load_model(cfg, args.checkpoint)
        bins = roi_bins(model, args.image, args.score_thr, args.max_boxes)
    draw_roi_bins(model, args.image, bins, args.out)
    text = f'{len(bins.boxes)} detections with a score above {args.score_thr}'
    if len(bins.boxes):
        shifts = 100 * bins.shifts()
        text += f'; bins shifted by {shifts.mean():.2f} % of the diagonal on average, at most {shifts.max():.2f} %'
    print(f'{text}; picture in {args.out}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('image')
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', default='bins.png', metavar='FILE', help='the picture (default: %(default)s)')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='leave out boxes with at most this score (default: %(default)s)'
    )
    parser.add_argument('--max-boxes', type=int, default=6, help='draw this many at most (default: %(default)s)')
    return parser.parse_args()
