"""The operators, mmcv's own where it is compiled and ours in their place, give what a compiled mmcv gave.

mmcv_outputs.py wrote them. The focal loss, for which mmcv has no code for the CPU, is compared with its formula.
"""

import sys

import internimage.openmmlab.mmcv_ext._ext as ours
from internimage.openmmlab.ops import guarded, is_compiled

# isort: split
import mmcv.ops
import numpy as np
import pytest
import torch
from mmcv_outputs import FILE, cases

CASES = cases()


@pytest.fixture(scope='module')
def stored():
    with np.load(FILE) as file:
        return dict(file)


@pytest.fixture(params=['installed', 'ours'])
def operators(request, monkeypatch):
    """mmcv's as they are installed, or ours in the place of compiled ones."""
    if request.param == 'ours':
        for name in ours.SERVED:
            monkeypatch.setattr(sys.modules['mmcv._ext'], name, guarded(getattr(ours, name)))


@pytest.mark.parametrize('name', CASES)
def test_outputs_and_gradients_are_those_of_a_compiled_mmcv(name, operators, stored):
    found = CASES[name]()
    assert sum(key.startswith(f'{name}: ') for key in stored) == len(found)
    for i, output in enumerate(found):
        wanted = torch.from_numpy(stored[f'{name}: {i}'])
        if output.dtype == torch.int64:
            assert torch.equal(output, wanted)
            continue
        scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
        torch.testing.assert_close(output, wanted, rtol=0, atol=scale * (1e-12 if 'float64' in name else 2e-6))


def test_the_stored_cases_are_the_cases(stored):
    assert {key.rsplit(': ', 1)[0] for key in stored} == CASES.keys()
    assert FILE.stat().st_size < 300_000


def test_of_equal_scores_the_earlier_box_stays():
    box = torch.tensor([[0.0, 0, 10, 10]])
    kept = ours.nms(box.repeat(40, 1) + torch.arange(40)[:, None] % 4 * 20, torch.full((40,), 0.5), 0.5, 0)
    assert kept.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('gamma, alpha', [(2.0, 0.25), (1.5, 0.6)])
def test_focal_loss(gamma, alpha, weighted, monkeypatch):
    for name in ours.SERVED:
        monkeypatch.setattr(sys.modules['mmcv._ext'], name, guarded(getattr(ours, name)))
    rng = np.random.RandomState(0)
    x = torch.from_numpy(4 * rng.standard_normal((9, 4))).requires_grad_()
    target = torch.tensor([0, 1, 2, 3, 4, 0, 1, 4, 3])  # 4: the background
    weight = torch.tensor([0.5, 1, 2, 3], dtype=torch.float64) if weighted else None
    if weighted:
        target = target % 4
    found = mmcv.ops.sigmoid_focal_loss(x, target, gamma, alpha, weight, 'none')
    p, is_class = x.sigmoid(), target[:, None] == torch.arange(4)
    wanted = torch.where(is_class, -alpha * (1 - p) ** gamma * p.log(), -(1 - alpha) * p**gamma * (1 - p).log())
    if weighted:
        wanted = wanted * weight[target][:, None]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)
    gradients = [torch.autograd.grad(y.mean(), x, retain_graph=True)[0] for y in (found, wanted)]
    mean = mmcv.ops.sigmoid_focal_loss(x, target, gamma, alpha, weight, 'sum') / found.numel()
    torch.testing.assert_close(torch.autograd.grad(mean, x)[0], gradients[1], rtol=0, atol=1e-11)


def test_attention_on_other_devices_takes_the_form_in_pytorch():
    rng = np.random.RandomState(0)
    value = torch.from_numpy(rng.standard_normal((2, 41, 2, 4)))
    where, weights = torch.from_numpy(rng.uniform(-0.2, 1.2, (2, 3, 2, 2, 3, 2))), torch.rand(2, 3, 2, 2, 3).double()
    shapes, starts = torch.tensor([[5, 7], [3, 2]]), torch.tensor([0, 35])
    tensors = [tensor.requires_grad_() for tensor in (value, where, weights)]
    wanted = mmcv.ops.multi_scale_deform_attn.multi_scale_deformable_attn_pytorch(value, shapes, where, weights)
    gradient = torch.linspace(-1, 1, wanted.numel(), dtype=torch.float64).view_as(wanted)
    found = ours.ms_deform_attn_forward(value, shapes, starts, where, weights, im2col_step=64)
    assert torch.equal(found, wanted)
    results = [torch.zeros_like(tensor) for tensor in tensors]
    ours.ms_deform_attn_backward(value, shapes, starts, where, weights, gradient, *results, im2col_step=64)
    for result, expected in zip(results, torch.autograd.grad(wanted, tensors, gradient), strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_swapped_corners_are_an_error_as_with_the_compiled_one(operators):
    with pytest.raises(RuntimeError, match='R[Oo]I'):
        mmcv.ops.roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0, 3.0, 3.0, 1.0, 1.0]]), 2)


@pytest.mark.parametrize('name', ['roi_pool_forward', 'carafe_forward', 'box_iou_rotated', 'what_mmcv_may_add'])
def test_an_operator_that_is_missing_says_so_when_it_is_called(name):
    with pytest.raises(RuntimeError, match=f'{name} is none of those .*nms.*To compile mmcv: pip install'):
        getattr(ours, name)(torch.zeros(1), factor=2)


def test_pooling_the_maximum_needs_a_compiled_mmcv():
    with pytest.raises(RuntimeError, match="pool_mode 'max' needs mmcv's compiled operators"):
        ours.roi_align_forward(*[torch.zeros(1, 1, 1, 1)] * 5, 1, 1, 1.0, 0, 0, True)


def test_python_looks_for_special_names_in_vain():
    assert not hasattr(ours, '__path__') and not hasattr(ours, '__wrapped__')


def test_which_one_is_in_use_is_known():
    file = sys.modules['mmcv._ext'].__file__
    assert is_compiled() is file.endswith('.so')
