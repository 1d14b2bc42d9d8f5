"""Time and compare: always against a peer measured in the same run.

    python tools/benchmark.py op [--size 224x224 800x1344] [--batch 1] [--dtype float32] [--repeats 7] [--json FILE]

`op` times `ops_dcnv3.dcnv3`, forward and backward, against the PyTorch reference at the shapes of InternImage-T's four
stages, with the same operator written around `torch.nn.functional.grid_sample` (the form of the official fallback) as a
second peer. Medians of several calls, in milliseconds.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ops_dcnv3 import dcnv3, reference

CHANNELS, GROUPS, STRIDES = (64, 128, 256, 512), (4, 8, 16, 32), (4, 8, 16, 32)


def main() -> None:
    args = parse_args()
    device = 'cpu'
    environment = dict(
        cpu=processor(),
        threads=torch.get_num_threads(),
        capability=torch.ops.ops_dcnv3.cpu_capability(),
        torch=torch.__version__,
        dtype=args.dtype,
        batch=args.batch,
    )
    print(', '.join(f'{key} {value}' for key, value in environment.items()))
    peers = {'ours': dcnv3, 'reference': reference.dcnv3, 'grid_sample': grid_sample_dcnv3}
    header = f'{"image":>10} {"stage":>5} {"input":>14}'
    for phase in ('forward', 'backward'):
        header += ''.join(f'{f"{phase[:3]} {name}":>17}' for name in peers) + f'{"vs ref":>8}{"vs grid":>8}'
    print(header)
    rows = []
    for size in args.size:
        height, width = (int(value) for value in size.split('x'))
        for stage, (channels, groups, stride) in enumerate(zip(CHANNELS, GROUPS, STRIDES, strict=True), start=1):
            shape = (args.batch, height // stride, width // stride, channels)
            times = {name: measure(op, shape, groups, args, device) for name, op in peers.items()}
            rows.append(dict(image=size, stage=stage, shape=shape, milliseconds=times))
            line = f'{size:>10} {stage:>5} {"x".join(map(str, shape[1:])):>14}'
            for phase in (0, 1):
                line += ''.join(f'{times[name][phase]:>17.2f}' for name in peers)
                line += ''.join(f'{times[name][phase] / times["ours"][phase]:>7.1f}x' for name in list(peers)[1:])
            print(line, flush=True)
    for phase, label in enumerate(('forward', 'backward')):
        for peer in list(peers)[1:]:
            ratios = [row['milliseconds'][peer][phase] / row['milliseconds']['ours'][phase] for row in rows]
            mean = statistics.geometric_mean(ratios)
            print(f'{label}, {peer} / ours: geometric mean {mean:.1f}x, least {min(ratios):.1f}x')
    if args.json:
        Path(args.json).write_text(json.dumps(dict(environment=environment, rows=rows), indent=1))


def measure(op, shape, groups: int, args, device: str) -> tuple[float, float]:
    """Milliseconds of forward alone, and of backward alone (all three gradients)."""
    generator = torch.Generator(device).manual_seed(0)
    batch, height, width, channels = shape
    dtype = getattr(torch, args.dtype)
    make = lambda last: torch.randn(batch, height, width, last, generator=generator, device=device)  # noqa: E731
    input, offset, grad_output = make(channels), make(groups * 18), make(channels)
    mask = make(groups * 9).unflatten(-1, (groups, 9)).softmax(-1).flatten(-2)
    input, offset, mask, grad_output = (t.to(dtype) for t in (input, offset, mask, grad_output))
    leaves = [t.requires_grad_() for t in (input, offset, mask)]

    def forward():
        with torch.no_grad():
            op(*leaves, groups=groups)

    def prepare_backward():
        output = op(*leaves, groups=groups)
        return lambda: torch.autograd.grad(output, leaves, grad_output)

    return median(lambda: forward, args.repeats), median(prepare_backward, args.repeats)


def median(prepare, repeats: int) -> float:
    """Median time, in milliseconds, of what `prepare` returns; neither preparation nor the first call counts."""
    seconds = []
    for _ in range(repeats + 1):
        call = prepare()
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]) * 1e3


def grid_sample_dcnv3(input: Tensor, offset: Tensor, mask: Tensor, groups: int) -> Tensor:
    """DCNv3 of a 3x3 window, stride and padding 1, by way of `grid_sample`."""
    batch, height, width, channels = input.shape
    size = input.new_tensor([width, height])
    points = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2)).to(input)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    pixel = torch.stack([columns, rows], dim=-1).to(input)[:, :, None, None]
    location = pixel + points + offset.unflatten(-1, (groups, 9, 2))  # (N, H, W, G, 9, 2), in pixels
    grid = (2 * location + 1) / size - 1
    grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(batch * groups, height * width, 9, 2)
    images = input.permute(0, 3, 1, 2).reshape(batch * groups, channels // groups, height, width)
    sampled = F.grid_sample(images, grid, align_corners=False)  # (N * G, C / G, H * W, 9)
    weights = mask.unflatten(-1, (groups, 9)).permute(0, 3, 1, 2, 4).reshape(batch * groups, 1, height * width, 9)
    return (sampled * weights).sum(-1).reshape(batch, channels, height, width).permute(0, 2, 3, 1)


def processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(': ')[1] for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    commands = parser.add_subparsers(dest='what', required=True)
    op = commands.add_parser('op', help='the DCNv3 operator')
    op.add_argument('--size', nargs='+', default=['224x224', '800x1344'], metavar='HxW', help='image sizes')
    op.add_argument('--batch', type=int, default=1)
    op.add_argument('--dtype', default='float32', choices=['float32', 'float64', 'bfloat16', 'float16'])
    op.add_argument('--repeats', type=int, default=7, help='calls per figure')
    op.add_argument('--json', help='also write the figures to this file')
    return parser.parse_args()


if __name__ == '__main__':
    main()
