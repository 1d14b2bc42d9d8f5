"""What a model of torch costs, without OpenMMLab."""

from functools import partial

import pytest
import torch
from torch import nn

from internimage import build_variant
from internimage.analysis import complexity, count


def test_a_model_of_torch_and_its_optimizer():
    def build():
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(8, 5, 1))

    cost = count(build, (6, 10), partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    parameters = 8 * 27 + 8 + 5 * 8 + 5
    assert cost.total.parameters == parameters
    assert cost.total.flops == 3 * 5 * (8 * 27 + 5 * 8)
    assert cost.memory['optimizer'] == 4 * parameters


def test_a_pass_of_ones_own_is_counted():
    cost = count(lambda: build_variant('small'), (64, 96), forward=lambda model, image: model.forward_stem(image))
    conv1, conv2 = 32 * 48 * 16 * 27, 16 * 24 * 32 * 16 * 9
    assert cost.total.flops == conv1 + conv2


def test_every_operator_with_gradients_is_counted():
    """One without a formula would cost nothing."""
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith('ops_dcnv3::')]
    counted = {operator._qualified_op_name for operator in complexity._formulas()}
    assert {name.removesuffix('_backward') for name in names if name.endswith('_backward')} <= counted


def test_a_shape_that_is_none():
    with pytest.raises(ValueError, match='shape must be two positive integers.* got \\(0, 4\\)'):
        count(nn.Identity, (0, 4))
