"""Time and compare: always against peers measured in the same run, host overhead included.

    internimage benchmark op    [--variant t s] [--size 224 800x1344] [--batch 1] [--dtype float32 bfloat16]
    internimage benchmark op    --sweep                  # the first stage's channels at many sizes: ns per pixel
    internimage benchmark layer [--size 224 512]
    internimage benchmark roi   [--rois 1000] [--size 800x1336]
    internimage benchmark model [--variant t] [--peers convnext_tiny swin_tiny]
    internimage benchmark train [--batch 8]
    all:   [--device cpu|cuda] [--threads 2] [--repeats 15] [--json FILE] [--plot FILE.png]

`op` times `ops_dcnv3.dcnv3` at the shapes of InternImage's four stages, forward and backward (all gradients), against
the PyTorch reference, the same operator around `grid_sample` (the form of the official fallback), torchvision's
`deform_conv2d` and, as the floor, a depthwise 3x3 convolution. `layer` times the DCNv3 layer, `roi` deformable RoI
pooling with offsets (bins of 7x7, adaptive samples, all gradients) against torchvision's pools, which have none.
`model` and `train` time whole backbones against timm's, each in the memory layout that it is faster in.

The contenders of one row are timed in turn, sample by sample; the rows of a sweep one after the other. On the CPU a
sample is the second of two calls, so that no contender is measured with the cache contents of another one, and freed
memory is kept: glibc would otherwise map the pages of results over 32 MB again in each call, which takes longer than an
operator. On CUDA, events time single calls from an idle GPU, and inputs rotate. A figure is the median of its samples,
`spread` their (90th - 10th percentile) / median. A ratio `a/b` is the time of a by the time of b. GB/s counts what the
operator must read and write: forward input, offset, mask and output, backward input, offset, mask, their gradients and
the output's, each once; `of copy` is its share of what `copy_` of 256 MB reads and writes per second. Peak is the
memory that a call takes beyond what was there before, results included.
"""

import argparse
import json
import os
import re
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from ..errors import UserError
from ..files import whole_file
from .contenders import (
    LAYERS,
    OPERATORS,
    ROI_POOLS,
    SWEEP,
    TIMM_NAMES,
    VARIANTS,
    check_layers,
    check_operators,
    check_roi_pools,
    network_rounds,
    roi_rounds,
    stage_rounds,
)
from .measuring import Machine, finish, measure, note
from .report import plot, print_row, summarise


def main() -> int:
    """Runs the command line; returns 2, with one line on stderr, after a UserError."""
    try:
        run()
    except UserError as error:
        print('error:', ' '.join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def run() -> None:
    args = parse_args()
    machine = Machine(args.device)
    checks = dict(op=check_operators, layer=check_layers, roi=check_roi_pools)
    if args.command in checks:
        checks[args.command](args.peers, machine.device)
    environment = machine.environment()
    header = '{device} ({capability}), {threads} threads, torch {torch}; copy_ of 256 MB: {copy_gb_per_s:.1f} GB/s'
    print(header.format(**environment))
    if environment['load'] > os.cpu_count() / 2:
        note(f'other programs are at work (load {environment["load"]:.1f}, {os.cpu_count()} cores): ratios may be off')
    make_rounds = dict(op=stage_rounds, layer=stage_rounds, roi=roi_rounds).get(args.command, network_rounds)
    rounds = list(make_rounds(args, machine))
    total, done, start, rows = sum(case.work for cases in rounds for case in cases), 0, time.perf_counter(), []
    for cases in rounds:
        new = [finish(case, measure(case, machine, args), environment) for case in cases]
        for row in new:
            if args.sweep:
                row['over_fastest'] = row['ns_per_pixel'] / min(other['ns_per_pixel'] for other in new)
            print_row(args, row, header=not rows)
            rows.append(row)
        done += sum(case.work for case in cases)
        if sys.stderr.isatty() and done < total:
            left = (time.perf_counter() - start) * (total - done) / done
            print(f'{len(rows)} rows, about {left:.0f} s left ', end='\r', file=sys.stderr, flush=True)
    summary = summarise(rows)
    for line in (line for line in summary if line['rows'] > 1):
        print('{ratio}, {dtype}, {phase}: geometric mean {mean:.2f}, {least:.2f} to {greatest:.2f}'.format(**line))
    if args.json:
        result = dict(command=args.command, environment=environment, rows=rows, summary=summary)
        with whole_file(args.json) as part:
            part.write_text(json.dumps(result, indent=1))
    if args.plot:
        with whole_file(args.plot) as part:
            plot(args, rows, environment, part)


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(message)


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    for command, what, size, batch in (
        ('op', 'the DCNv3 operator', ['224x224', '800x1344'], 1),
        ('layer', 'the DCNv3 layer', ['224x224', '800x1344'], 1),
        ('roi', 'deformable RoI pooling', ['800x1336'], 1),
        ('model', 'backbones, inference', ['224x224'], 1),
        ('train', 'backbones, forward and backward', ['224x224'], 8),
    ):
        add = commands.add_parser(command, help=what).add_argument
        add('--device', default='cpu', help='cpu, cuda or cuda:N')
        if command == 'roi':
            add('--variant', nargs='+', default=list(ROI_POOLS), choices=list(ROI_POOLS), help='default both')
            add('--rois', type=count, default=1000, help='in all images together, default 1000')
        else:
            add('--variant', nargs='+', default=['t'], choices=list(VARIANTS), help='of InternImage, default t')
        add('--size', nargs='+', metavar='HxW', help=f'of the image, default {" ".join(size)}')
        add('--batch', nargs='+', type=count, default=[batch], help=f'images, default {batch}')
        add('--dtype', nargs='+', default=['float32'], choices=['float32', 'float64', 'bfloat16', 'float16'])
        add('--threads', type=count, help="of the CPU, default torch's")
        add('--repeats', type=count, default=15, help='samples per figure, default 15')
        add('--budget', type=float, default=10.0, help='seconds per figure, at least three samples; default 10')
        add('--peers', nargs='+', help='which to compare with, default all; for model and train names of timm')
        add('--json', type=Path, metavar='FILE', help='also write all figures here')
        add('--plot', type=Path, metavar='FILE.png', help='also draw them; needs matplotlib')
        if command == 'op':
            add('--sweep', action='store_true', help=f'time per pixel of maps of {SWEEP} pixels a side')
        commands.choices[command].set_defaults(default_size=size, **({} if command == 'op' else dict(sweep=False)))
    args = parser.parse_args()
    if args.sweep and (args.size or args.peers):
        raise UserError('--sweep has sizes of its own and no peers: leave out --size and --peers')
    args.device = device_of(args.device)
    args.size = [size_of(text) for text in args.size or args.default_size]
    args.peers = peers_of(args)
    for option, path in ('--json', args.json), ('--plot', args.plot):
        if path and (not os.access(path.parent, os.W_OK) or path.is_dir()):
            raise UserError(f'{option} must be a file in a folder that exists and can be written to, got {path}')
    if args.plot and args.plot.suffix != '.png':
        raise UserError(f'--plot must end in .png, got {args.plot}')
    if args.plot and not find_spec('matplotlib'):
        raise UserError('--plot needs matplotlib: pip install matplotlib')
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number of at least 1, got {text}')
    return int(text)


def size_of(text: str) -> tuple[int, int]:
    """'800x1344' or '224' -> (height, width) in pixels."""
    match = re.fullmatch(r'(\d+)(?:x(\d+))?', text)
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 32:
        raise UserError(f'--size must be HxW or one number, at least 32 pixels, got {text}')
    return size


def device_of(text: str) -> torch.device:
    """The device, if it is there and `ops_dcnv3` has kernels for it; otherwise a UserError."""
    if not re.fullmatch(r'cpu|cuda(:\d+)?', text):
        raise UserError(f'--device must be cpu, cuda or cuda:N, got {text}')
    device = torch.device(text)
    if device.type == 'cuda':
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f'--device {text}: torch finds {torch.cuda.device_count()} GPUs')
        if not torch.ops.ops_dcnv3.has_kernel('dcnv3', 'CUDA'):
            raise UserError(f'--device {text}: ops_dcnv3 was built without CUDA kernels')
    return device


def peers_of(args) -> list[str]:
    """The peers asked for, or all that can take part; for networks, None leaves the choice to the variant."""
    if args.command in ('model', 'train'):
        import timm

        for peer in args.peers or []:
            if not timm.is_model(TIMM_NAMES.get(peer, peer)):
                raise UserError(f'--peers must be names of timm models, got {peer}')
        return args.peers
    known = dict(op=list(OPERATORS), layer=list(LAYERS), roi=[peer for *_, peer in ROI_POOLS.values()])[args.command]
    known = [name for name in known if name != 'ours']
    for peer in args.peers or []:
        if peer not in known:
            raise UserError(f'--peers must be among {", ".join(known)}, got {peer}')
    return [] if args.sweep else args.peers or known
