"""The names of the official package, with its arguments."""

import importlib
import json

import numpy as np
import pytest
import torch

import DCNv3 as official
import ops_dcnv3
from ops_dcnv3.functions import DCNv3Function, dcnv3_core_pytorch
from ops_dcnv3.modules import DCNv3, DCNv3_pytorch

CASES = ['t_stage1', 'nonsquare', 'xl_offset_scale2', 'stride2', 'dilation2', 'remove_center', 'k5_pad2']


def load(data, name, device):
    case = json.loads((data / 'dcnv3_op.json').read_text())[name]
    with np.load(data / 'dcnv3_op.npz') as arrays:
        names = ('input', 'offset', 'mask', 'grad_output', 'output', 'grad_input', 'grad_offset', 'grad_mask')
        get = {key: torch.from_numpy(arrays[f'{name}/{key}']).double().to(device) for key in names}
    pairs = [case[key] for key in ('kernel', 'stride', 'pad', 'dilation')]
    sizes = [v for pair in pairs for v in ((pair, pair) if isinstance(pair, int) else pair)]
    group_channels = get['input'].shape[-1] // case['group']
    return get, [*sizes, case['group'], group_channels, case['offset_scale']], int(case['remove_center'])


@pytest.mark.parametrize('name', CASES)
def test_golden(name, data, device):
    get, geometry, remove_center = load(data, name, device)
    tensors = [get[key].requires_grad_() for key in ('input', 'offset', 'mask')]
    wanted = [get[key] for key in ('grad_input', 'grad_offset', 'grad_mask')]
    for output in (
        DCNv3Function.apply(*tensors, *geometry, 256, remove_center),
        dcnv3_core_pytorch(*tensors, *geometry, remove_center),
    ):
        torch.testing.assert_close(output, get['output'], rtol=0, atol=1e-10)
        gradients = torch.autograd.grad(output, tensors, get['grad_output'])
        torch.testing.assert_close(gradients, tuple(wanted), rtol=0, atol=1e-10)
    arguments = [256, remove_center] if remove_center else [256]
    output = official.dcnv3_forward(*tensors, *geometry, *arguments)
    assert not output.requires_grad
    torch.testing.assert_close(output, get['output'], rtol=0, atol=1e-10)
    gradients = official.dcnv3_backward(*tensors, *geometry, get['grad_output'], *arguments)
    torch.testing.assert_close(gradients, wanted, rtol=0, atol=1e-10)


def test_one_layer_under_all_names():
    assert DCNv3 is DCNv3_pytorch is ops_dcnv3.DCNv3
    assert importlib.import_module('DCNv3').dcnv3_forward is ops_dcnv3.functions.dcnv3_forward


def test_channels_of_a_group_must_fit():
    tensors = torch.zeros(1, 4, 5, 8), torch.zeros(1, 4, 5, 36), torch.zeros(1, 4, 5, 18)
    geometry = [3, 3, 1, 1, 1, 1, 1, 1, 2]
    for call in (
        lambda: DCNv3Function.apply(*tensors, *geometry, 5, 1.0, 256),
        lambda: dcnv3_core_pytorch(*tensors, *geometry, 5, 1.0),
        lambda: official.dcnv3_backward(*tensors, *geometry, 5, 1.0, tensors[0], 256),
    ):
        with pytest.raises(ValueError, match=r'group \* group_channels = 2 \* 5 channels, got shape \(1, 4, 5, 8\)'):
            call()
