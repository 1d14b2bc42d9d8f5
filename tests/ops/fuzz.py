"""Random calls of the operator against its specification, until one differs or all have agreed.

    python tests/ops/fuzz.py [--calls 20000] [--seed 0] [--device cpu]

Call number n depends on the seed and n alone: `--calls 1 --seed S --first N` repeats the one that was reported.
"""

import argparse
import random
import sys
import time

import torch

from ops_dcnv3 import dcnv3, reference

# Largest relative error of a sum in this dtype, by the largest expected number.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}
FAR = (1e4, 3e38, float('inf'), float('-inf'), float('nan'))


def make_call(rng: random.Random, device: str):
    """Tensors and keyword arguments: any geometry, strides, slices, far and NaN offsets."""
    dtype = rng.choice(list(TOLERANCE))
    pair = lambda least, most: (rng.randint(least, most), rng.randint(least, most))  # noqa: E731
    kernel_size = rng.choice([(3, 3), (3, 3), (1, 1), (5, 5), (7, 7), pair(1, 5)])
    stride, padding, dilation = pair(1, 3), pair(0, 4), pair(1, 3)
    least = [max(1, dilation[i] * (kernel_size[i] - 1) + 1 - 2 * padding[i]) for i in (0, 1)]
    batch, size = rng.choice([0, 1, 1, 2, 3]), [rng.randint(n, n + 12) for n in least]
    groups, group_channels = rng.randint(1, 6), rng.choice([1, 2, 3, 5, 8, 12, 16, 16, 17, 24, 32, 33, 48, 64, 100])
    odd = kernel_size[0] % 2 == kernel_size[1] % 2 == 1 and kernel_size != (1, 1)
    options = dict(
        kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, groups=groups,
        offset_scale=rng.choice([0.0, 0.5, 1.0, 1.0, 2.0]), remove_center=odd and rng.random() < 0.3,
        softmax=rng.random() < 0.5,
    )  # fmt: skip
    points = groups * (kernel_size[0] * kernel_size[1] - options['remove_center'])
    out_size = [(size[i] + 2 * padding[i] - dilation[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    generator = torch.Generator().manual_seed(rng.getrandbits(60))
    normal = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731

    input, mask = normal(batch, *size, groups * group_channels), normal(batch, *out_size, points)
    # Multiples of 1/64: a position is then the same number in every dtype, and never on the other side of a pixel.
    offset = (normal(batch, *out_size, 2 * points) * rng.choice([0, 0.3, 1, 5, 30]) * 64).round() / 64
    offset = offset.to(dtype).float()
    if rng.random() < 0.3:
        chosen = torch.rand(offset.shape, generator=generator) < 0.05
        offset = offset.where(~chosen, rng.choice(FAR))
    if rng.random() < 0.1:
        input = input.where(torch.rand(input.shape, generator=generator) > 0.02, float('nan'))
    if not options['softmax']:
        mask = mask.abs()
    elif rng.random() < 0.2:
        mask = mask * 50
    offset, mask, input = (t.to(device, dtype) for t in (offset, mask, input))
    if rng.random() < 0.5:  # slices of one tensor, as one layer could predict them
        both = torch.cat([offset, mask, mask], dim=-1)
        offset, mask = both[..., : 2 * points], both[..., 2 * points : 3 * points]
    if rng.random() < 0.3:  # any other strides
        input = input.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    return (input, offset, mask), options


def run(op, tensors, options) -> list[torch.Tensor]:
    tensors = [t.detach().requires_grad_() for t in tensors]
    output = op(*tensors, **options)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape).to(output)
    return [output.detach(), *torch.autograd.grad(output, tensors, weights)]


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference by the largest expected number; infinite where one is NaN and the other is not."""
    if actual.isnan().ne(expected.isnan()).any():
        return float('inf')
    actual, expected = actual.double().nan_to_num(0), expected.nan_to_num(0)
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1)).item() if expected.numel() else 0.0


def check(seed: int, number: int, device: str) -> str | None:
    """One call; what is wrong with it, or None."""
    rng = random.Random(f'{seed}/{number}')
    tensors, options = make_call(rng, device)
    actual = run(dcnv3, tensors, options)
    exact = run(reference.dcnv3, [t.double() for t in tensors], options)
    dtype = tensors[0].dtype
    for name, a, e in zip(('output', 'grad input', 'grad offset', 'grad mask'), actual, exact, strict=True):
        found = difference(a, e)
        if not found <= TOLERANCE[dtype]:
            shapes = [tuple(t.shape) for t in tensors]
            return f'{name} differs by {found:.3g} ({dtype}, shapes {shapes}, {options})'
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--calls', type=int, default=20000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--first', type=int, default=0)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    start = last = time.monotonic()
    for done in range(args.calls):
        problem = check(args.seed, args.first + done, args.device)
        if problem:
            print(f'call {args.first + done} of seed {args.seed}: {problem}')
            return 1
        if time.monotonic() - last > 10:
            last = time.monotonic()
            left = (last - start) / (done + 1) * (args.calls - done - 1)
            print(f'{done + 1} of {args.calls} calls agree, about {left:.0f} s left', flush=True)
    print(f'{args.calls} calls of seed {args.seed} agree, {time.monotonic() - start:.0f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
