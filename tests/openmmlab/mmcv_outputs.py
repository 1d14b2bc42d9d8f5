"""What the operators of a compiled mmcv give, kept in tests/data/mmcv_outputs.npz.

    python tests/mmcv_outputs.py     writes the file; wants an mmcv that was compiled

Inputs come out of numpy's RandomState, whose numbers are the same in every version.
"""

from pathlib import Path

import mmcv.ops
import numpy as np
import torch
from numpy.random import RandomState

FILE = Path(__file__).resolve().parents[1] / 'data' / 'mmcv_outputs.npz'


def tensor(array, dtype=torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)


def boxes(rng: RandomState, number: int, side: float = 60) -> np.ndarray:
    corners = rng.uniform(-4, side, (number, 2))
    return np.concatenate([corners, corners + rng.uniform(0.5, side / 2, (number, 2))], 1)


def with_gradients(function, *tensors, differentiable: int) -> list[torch.Tensor]:
    """The output, and gradients by the first tensors for a fixed gradient of the output."""
    leaves = [t.detach().clone().requires_grad_(i < differentiable) for i, t in enumerate(tensors)]
    output = function(*leaves)
    gradient = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape).to(output.dtype)
    return [output, *torch.autograd.grad(output, leaves[:differentiable], gradient)]


def roi_align(dtype, size, scale, ratio, aligned, seed=0, number=5, shape=(2, 3, 9, 11)):
    rng = RandomState(seed)
    image = tensor(rng.standard_normal(shape), dtype)
    rois = tensor(np.concatenate([rng.randint(0, shape[0], (number, 1)), boxes(rng, number, 20 / scale)], 1), dtype)
    if number:
        rois[0, 3:] = rois[0, 1:3]  # a RoI without area
    call = lambda x, r: mmcv.ops.roi_align(x, r, size, scale, ratio, 'avg', aligned)  # noqa: E731
    return with_gradients(call, image, rois, differentiable=1)


def deform_conv(dtype, stride, padding, dilation, groups, deform_groups, kernel=(3, 3), shape=(2, 4, 5, 6), seed=0):
    rng, (kh, kw) = RandomState(seed), kernel
    image = tensor(rng.standard_normal(shape), dtype)
    weight = tensor(rng.standard_normal((6, shape[1] // groups, kh, kw)), dtype)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    height, width = ((shape[2 + i] + 2 * padding[i] - reach[i] - 1) // stride[i] + 1 for i in range(2))
    offset = tensor(2 * rng.standard_normal((shape[0], 2 * deform_groups * kh * kw, height, width)), dtype)
    call = lambda x, o, w: mmcv.ops.deform_conv2d(x, o, w, stride, padding, dilation, groups, deform_groups)  # noqa: E731
    return with_gradients(call, image, offset, weight, differentiable=3)


def modulated_deform_conv(dtype, stride, padding, dilation, groups, deform_groups, bias, seed=0):
    rng, shape = RandomState(seed), (2, 4, 5, 6)
    image = tensor(rng.standard_normal(shape), dtype)
    weight = tensor(rng.standard_normal((6, shape[1] // groups, 3, 3)), dtype)
    height, width = ((shape[2 + i] + 2 * padding[i] - 2 * dilation[i] - 1) // stride[i] + 1 for i in range(2))
    offset = tensor(2 * rng.standard_normal((shape[0], 18 * deform_groups, height, width)), dtype)
    mask = tensor(rng.uniform(0, 1, (shape[0], 9 * deform_groups, height, width)), dtype)
    tensors = [image, offset, mask, weight, *([tensor(rng.standard_normal(6), dtype)] if bias else [])]

    def call(x, o, m, w, b=None):
        return mmcv.ops.modulated_deform_conv2d(x, o, m, w, b, stride, padding, dilation, groups, deform_groups)

    return with_gradients(call, *tensors, differentiable=len(tensors))


def attention(dtype, seed=0):
    """mmcv's PyTorch form, which its kernels for GPUs follow."""
    rng = RandomState(seed)
    value = tensor(rng.standard_normal((2, 5 * 7 + 3 * 2, 2, 4)), dtype)
    where = tensor(rng.uniform(-0.2, 1.2, (2, 3, 2, 2, 3, 2)), dtype)
    weights = tensor(rng.uniform(0, 1, (2, 3, 2, 2, 3)), dtype)
    shapes = torch.tensor([[5, 7], [3, 2]])
    form = mmcv.ops.multi_scale_deform_attn.multi_scale_deformable_attn_pytorch
    return with_gradients(lambda v, w, a: form(v, shapes, w, a), value, where, weights, differentiable=3)


def nms(threshold, number=60, dtype=torch.float32, seed=0, **options):
    rng = RandomState(seed)
    found = tensor(boxes(rng, number), dtype)
    return list(mmcv.ops.nms(found, tensor(rng.uniform(0, 1, number), dtype), threshold, **options))


def nms_at_the_threshold(threshold, overlap):
    """Two boxes whose overlap is the threshold, as closely as float32 can tell."""
    found = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10 * overlap]])
    return list(mmcv.ops.nms(found, torch.tensor([0.9, 0.8]), threshold))


def nms_of_ties(seed=0):
    """Eight places with two boxes each, of different scores; the best ones of all places have equal scores."""
    x = torch.arange(8.0)[:, None] * 20
    best = torch.cat([x, x, x + 10, x + 10], 1)
    order = torch.from_numpy(RandomState(seed).permutation(16))
    found, scores = torch.cat([best, best + 1])[order], torch.tensor([0.9] * 8 + [0.5] * 8)[order]
    _, kept = mmcv.ops.nms(found, scores, 0.5)
    return [kept.sort().values]


def batched_nms(seed=0, **options):
    rng = RandomState(seed)
    found, scores = tensor(boxes(rng, 50), torch.float32), tensor(rng.uniform(0, 1, 50), torch.float32)
    labels = torch.from_numpy(rng.randint(0, 3, 50))
    return list(mmcv.ops.batched_nms(found, scores, labels, dict(type='nms', iou_threshold=0.4, **options)))


def soft_nms(method, number=40, seed=0, **options):
    rng = RandomState(seed)
    found, scores = tensor(boxes(rng, number), torch.float32), tensor(rng.uniform(0, 1, number), torch.float32)
    return list(mmcv.ops.soft_nms(found, scores, 0.3, method=method, **options))


def cases() -> dict:
    """{name: function that gives a list of tensors}"""
    found = {}
    for name, dtype in dict(float32=torch.float32, float64=torch.float64).items():
        for size, scale, ratio, aligned in [
            ((7, 7), 0.25, 0, True),
            ((3, 5), 0.5, 2, True),
            ((1, 1), 1.0, 0, True),
            ((2, 3), 1 / 3, 1, False),
            ((4, 4), 0.125, 0, False),
        ]:
            found[f'roi_align {name} {size} {scale:.3f} {ratio} {aligned}'] = (
                lambda d=dtype, s=size, c=scale, r=ratio, a=aligned: roi_align(d, s, c, r, a)
            )
        found[f'roi_align {name} empty'] = lambda d=dtype: roi_align(d, (3, 3), 0.5, 0, True, number=0)
        found[f'roi_align {name} one pixel'] = lambda d=dtype: roi_align(d, (3, 2), 1.0, 0, True, shape=(1, 2, 1, 1))
        for stride, padding, dilation, groups, deform_groups, bias in [
            ((1, 1), (1, 1), (1, 1), 1, 1, True),
            ((2, 1), (0, 1), (1, 2), 2, 2, False),
            ((1, 2), (2, 2), (2, 2), 2, 4, True),
        ]:
            args = stride, padding, dilation, groups, deform_groups
            found[f'deform_conv {name} {args}'] = lambda d=dtype, a=args: deform_conv(d, *a)
            found[f'modulated_deform_conv {name} {args} {bias}'] = lambda d=dtype, a=args, b=bias: (
                modulated_deform_conv(d, *a, b)
            )
        found[f'deform_conv {name} 1x5'] = lambda d=dtype: deform_conv(d, (1, 1), (0, 2), (1, 1), 1, 1, (1, 5))
        found[f'attention {name}'] = lambda d=dtype: attention(d)
    for threshold in (0.1, 0.3, 0.5, 0.7):
        found[f'nms {threshold}'] = lambda t=threshold: nms(t)
        found[f'nms {threshold} offset'] = lambda t=threshold: nms(t, offset=1)
        found[f'nms at {threshold}'] = lambda t=threshold: nms_at_the_threshold(t, t)
    found['nms empty'] = lambda: nms(0.5, number=0)
    found['nms one'] = lambda: nms(0.5, number=1)
    found['nms best'] = lambda: nms(0.5, score_threshold=0.4, max_num=5)
    found['nms ties'] = nms_of_ties
    found['batched_nms'] = batched_nms
    found['batched_nms agnostic'] = lambda: batched_nms(class_agnostic=True)
    found['batched_nms split'] = lambda: batched_nms(split_thr=10, max_num=9)
    for method in ('naive', 'linear', 'gaussian'):
        found[f'soft_nms {method}'] = lambda m=method: soft_nms(m)
        found[f'soft_nms {method} low'] = lambda m=method: soft_nms(m, min_score=0.3, offset=1, sigma=0.2)
    found['soft_nms empty'] = lambda: soft_nms('linear', number=0)
    return found


def main() -> None:
    if not mmcv._ext.__file__.endswith('.so'):
        raise SystemExit('error: this mmcv is not compiled')
    arrays = {}
    for name, call in cases().items():
        for i, output in enumerate(call()):
            arrays[f'{name}: {i}'] = output.detach().numpy()
    np.savez_compressed(FILE, **arrays)
    print(f'{FILE}: {len(cases())} cases, {FILE.stat().st_size} bytes')


if __name__ == '__main__':
    main()
