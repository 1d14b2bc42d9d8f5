"""Random calls of an operator against its specification, until one differs or all have agreed.

    python tests/ops/fuzz.py [dcnv3|roi_pool|ms_deform_attn] [--calls 20000] [--seed 0] [--device cpu]

Call number n depends on the seed and n alone: `--calls 1 --seed S --first N` repeats the one that was reported.
"""

import argparse
import random
import sys
import time

import torch

import ops_dcnv3
from ops_dcnv3 import reference

# Largest relative error of a sum in this dtype, by the largest expected number.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}
FAR = (1e4, 3e38, float('inf'), float('-inf'), float('nan'))


def make_dcnv3(rng: random.Random, device: str):
    """Name, tensors with gradients and other arguments: any geometry, strides, slices, far and NaN offsets."""
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
    return 'dcnv3', dict(input=input, offset=offset, mask=mask), options


def make_roi_pool(rng: random.Random, device: str):
    """The same for the RoI pools: boxes across the border, swapped, without area, far away, NaN; none at all."""
    name = rng.choice(['deform_roi_pool', 'ps_roi_pool', 'deform_ps_roi_pool'])
    dtype = rng.choice(list(TOLERANCE))
    # The sampled value jumps a pixel outside the image. Where sums are single precision all positions are dyadic, so
    # that no rounding carries a sample over that border.
    dyadic = dtype != torch.float64
    bins = [rng.choice([1, 2, 4] if dyadic else [1, 2, 3, 5, 7]) for _ in range(2)]
    classes = rng.randint(1, 3) if name == 'deform_ps_roi_pool' else 1
    channels = classes * rng.choice([1, 2, 5, 8, 16, 17, 33]) * (1 if name == 'deform_roi_pool' else bins[0] * bins[1])
    batch, count, height, width = rng.randint(1, 3), rng.randint(0, 5), rng.randint(1, 12), rng.randint(1, 12)
    options = dict(
        output_size=tuple(bins),
        spatial_scale=rng.choice([0.125, 0.5, 1.0, 2.0] if dyadic else [0.1, 1 / 16, 1.0, 3.0]),
        sampling_ratio=rng.choice([1, 2, 4] if dyadic else [0, 0, 1, 2, 3]),
    )
    generator = torch.Generator().manual_seed(rng.getrandbits(60))
    normal = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    rounded = lambda tensor: (tensor * 16).round() / 16 if dyadic else tensor  # noqa: E731

    center = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([width, height])
    half = normal(count, 2) * rng.choice([0, 0.5, 2, 8]) * rng.choice([1, 0.1])
    boxes = torch.cat([center - half.abs(), center + (half if rng.random() < 0.2 else half.abs())], 1)
    boxes = rounded(boxes / options['spatial_scale'])
    if count and rng.random() < 0.2:
        boxes[rng.randrange(count), rng.randrange(4)] = rng.choice([float('nan'), float('inf'), -float('inf')])
    if count and options['sampling_ratio'] and rng.random() < 0.2:
        boxes[rng.randrange(count), rng.randrange(4)] = rng.choice([256.0, -256.0] if dyadic else [1e4, -1e4])
    image = torch.randint(0, batch, (count, 1), generator=generator)
    options['rois'] = torch.cat([image, boxes], 1).to(
        device, torch.float64 if dtype == torch.float64 else torch.float32
    )

    input = normal(batch, channels, height, width).to(device, dtype)
    if rng.random() < 0.5:
        input = input.contiguous(memory_format=torch.channels_last)
    elif rng.random() < 0.3:
        input = input.transpose(2, 3).contiguous().transpose(2, 3)
    tensors = dict(input=input)
    if name != 'ps_roi_pool' and (name == 'deform_ps_roi_pool' or rng.random() < 0.8):
        offset = rounded(normal(count, 2 * classes, *bins) * rng.choice([0, 0.3, 1, 10]))
        if count and rng.random() < 0.1:
            offset.view(-1)[rng.randrange(offset.numel())] = float('nan')
        tensors['offset'] = offset.to(device, dtype)
    if name != 'ps_roi_pool':
        options['gamma'] = rng.choice([0.0, 0.125, 1.0])
    if name == 'deform_roi_pool':
        if 'offset' not in tensors:
            options['offset'] = None
        if rng.random() < 0.5:
            tensors['mask'] = normal(count, *bins).sigmoid().to(device, dtype)
    return name, tensors, options


def make_ms_deform_attn(rng: random.Random, device: str):
    """The same for multi-scale deformable attention: levels in any order, points outside, far and NaN locations."""
    dtype = rng.choice(list(TOLERANCE))
    shapes = [(rng.randint(1, 9), rng.randint(1, 9)) for _ in range(rng.randint(1, 4))]
    batch, queries, heads = rng.choice([0, 1, 2, 3]), rng.choice([0, 1, 2, 7, 40]), rng.randint(1, 5)
    channels, points = rng.choice([1, 2, 3, 7, 8, 16, 24, 32, 32, 33, 64]), rng.choice([1, 2, 3, 4, 4, 9, 60])
    starts, pixels = [0] * len(shapes), 0
    for level in rng.sample(range(len(shapes)), len(shapes)):
        pixels += rng.choice([0, 0, 1, 5])
        starts[level] = pixels
        pixels += shapes[level][0] * shapes[level][1]
    generator = torch.Generator().manual_seed(rng.getrandbits(60))
    normal = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    shape = (batch, queries, heads, len(shapes), points)
    # Multiples of 1/256: their positions are the same number in every dtype, and never on the other side of a pixel.
    locations = ((normal(*shape, 2) * rng.choice([0, 0.1, 0.4, 3]) + 0.5) * 256).round() / 256
    if rng.random() < 0.3:
        locations = locations.where(torch.rand(locations.shape, generator=generator) > 0.05, rng.choice(FAR))
    value = normal(batch, pixels, heads, channels)
    if rng.random() < 0.1:
        value = value.where(torch.rand(value.shape, generator=generator) > 0.02, float('nan'))
    tensors = dict(value=value.to(device, dtype))
    tensors['sampling_locations'] = locations.to(device, torch.promote_types(dtype, torch.float32))
    tensors['attention_weights'] = normal(*shape).to(device, dtype)
    if rng.random() < 0.3:
        tensors['value'] = tensors['value'].transpose(1, 3).contiguous().transpose(1, 3)
    integer = rng.choice([torch.int64, torch.int32])
    options = dict(
        spatial_shapes=torch.tensor(shapes, dtype=integer, device=device),
        level_start_index=torch.tensor(starts, dtype=integer, device=device),
    )
    return 'ms_deform_attn', tensors, options


MAKERS = dict(dcnv3=make_dcnv3, roi_pool=make_roi_pool, ms_deform_attn=make_ms_deform_attn)


def run(op, tensors, options, dtype) -> dict[str, torch.Tensor]:
    tensors = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    output = op(**tensors, **options)
    weights = torch.linspace(-1, 1, output.numel()).to(dtype).to(output).reshape(output.shape)
    gradients = torch.autograd.grad(output, list(tensors.values()), weights)
    return {'output': output.detach(), **{f'grad {name}': g for name, g in zip(tensors, gradients, strict=True)}}


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference by the largest expected number; infinite where one is NaN and the other is not."""
    if actual.isnan().ne(expected.isnan()).any():
        return float('inf')
    actual, expected = actual.double().nan_to_num(0), expected.nan_to_num(0)
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1)).item() if expected.numel() else 0.0


def check(operator: str, seed: int, number: int, device: str) -> str | None:
    """One call; what is wrong with it, or None."""
    rng = random.Random(f'{seed}/{number}')
    name, tensors, options = MAKERS[operator](rng, device)
    dtype = next(iter(tensors.values())).dtype
    is_real = lambda value: torch.is_tensor(value) and value.is_floating_point()  # noqa: E731
    exact = {key: value.double() if is_real(value) else value for key, value in options.items()}
    expected = run(getattr(reference, name), {key: t.double() for key, t in tensors.items()}, exact, dtype)
    actual = run(getattr(ops_dcnv3, name), tensors, options, dtype)
    for key, value in actual.items():
        if operator == 'roi_pool' and key == 'grad offset':
            # By an offset that does not move a NaN bin, because the other axis is beyond the border, it is 0 or NaN.
            known = expected['output'].isfinite().flatten(1).all(1)
            value, expected[key] = value[known], expected[key][known]
        found = difference(value, expected[key])
        if not found <= TOLERANCE[dtype]:
            shapes = {key: tuple(t.shape) for key, t in tensors.items()}
            return f'{name}: {key} differs by {found:.3g} ({dtype}, shapes {shapes}, {options})'
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('operator', nargs='?', default='dcnv3', choices=list(MAKERS))
    parser.add_argument('--calls', type=int, default=20000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--first', type=int, default=0)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    start = last = time.monotonic()
    for done in range(args.calls):
        problem = check(args.operator, args.seed, args.first + done, args.device)
        if problem:
            print(f'call {args.first + done} of seed {args.seed}: {problem}')
            return 1
        if time.monotonic() - last > 10:
            last = time.monotonic()
            left = (last - start) / (done + 1) * (args.calls - done - 1)
            print(f'{done + 1} of {args.calls} calls agree, about {left:.0f} s left', flush=True)
    print(f'{args.calls} calls of {args.operator}, seed {args.seed}, agree, {time.monotonic() - start:.0f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
