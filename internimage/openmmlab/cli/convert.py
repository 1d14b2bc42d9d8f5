"""Convert a checkpoint to this project's names, or back to the official ones.

    internimage convert SRC DST [--config CONFIG] [--to official] [--ema]

SRC: an official or own checkpoint (.pth, .safetensors), a Hugging Face folder, or an http(s) address.
DST: a .pth or .safetensors file. It is written completely or not at all.
Converting is not needed to use a checkpoint: `load_from`, `init_cfg` and all tools take it as it is.
"""

import argparse

from ...checkpoint import convert_checkpoint
from .common import build_model, load_config, one_line_errors


@one_line_errors
def main() -> None:
    args = parse_args()
    model = build_model(load_config(args.config)) if args.config else None
    entries = convert_checkpoint(args.source, args.target, args.to, model, args.ema)
    print(f'{args.target}: {entries} entries' + (f', all that {args.config} needs' if args.config else ''))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('source', metavar='SRC', help='.pth, .safetensors, Hugging Face folder or http(s) address')
    parser.add_argument('target', metavar='DST', help='.pth or .safetensors file')
    parser.add_argument('--config', help='the weights must fit the model of this config')
    parser.add_argument('--to', choices=['ours', 'official'], default='ours', help='whose names (default: ours)')
    parser.add_argument('--ema', action='store_true', help='the averaged weights of a file that has both')
    return parser.parse_args()
