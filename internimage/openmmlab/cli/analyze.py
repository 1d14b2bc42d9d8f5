"""What a config's model costs: parameters, FLOPs and training memory, per module. Nothing is run or allocated.

    internimage analyze CONFIG [--shape 800 1280] [--depth 2] [--json FILE]

One multiply-add is one FLOP, DCNv3 and RoI pooling by formula; internimage/analysis/complexity.py states all of it.
Memory is that of a training step of one image in float32: with activation checkpointing (with_cp=True) the activations
of one block come on top, while it is computed again.
"""

import argparse
from pathlib import Path

from ..cfg_options import CfgOptions
from ..complexity import count_config
from .common import UserError, blame, load_config, one_line_errors


@one_line_errors
def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    if args.json and not Path(args.json).parent.is_dir():
        raise UserError(f'--json {args.json}: its folder does not exist')
    with blame(f'config {args.config}: model'):
        cost = count_config(cfg, tuple(args.shape))
    print(cost.table(args.depth))
    if args.json:
        Path(args.json).write_text(cost.to_json() + '\n')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage='%(prog)s CONFIG [options]'
    )
    parser.add_argument('config')
    parser.add_argument(
        '--shape', type=int, nargs=2, default=[800, 1280], metavar=('H', 'W'), help='of the image (default: 800 1280)'
    )
    parser.add_argument('--depth', type=int, default=2, metavar='N', help='levels of modules shown (default: 2)')
    parser.add_argument('--json', metavar='FILE', help='write everything, all levels, to this file')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE')
    return parser.parse_args()
