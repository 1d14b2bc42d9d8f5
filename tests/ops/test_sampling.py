"""Layers say where they sample: the same places, and weights, that their operators read."""

import pytest
import torch
from torch import nn

from ops_dcnv3 import DCNv3, DeformPSRoIPoolPack, DeformRoIPoolPack, ModulatedDeformRoIPoolPack, reference


def randomise(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer.double()


@pytest.mark.parametrize(
    'options',
    [
        dict(group=3),
        dict(group=2, remove_center=True, offset_scale=2.0),
        dict(group=1, kernel_size=(3, 2), stride=(2, 1), pad=(1, 2), dilation=(2, 1), dw_kernel_size=(5, 2)),
        dict(group=1, kernel_size=(2, 4), pad=(0, 2)),
    ],
    ids=str,
)
def test_dcnv3_is_the_weighted_sum_over_its_samples(options):
    layer = randomise(DCNv3(6, **options))
    layer.output_proj = nn.Identity()
    input = torch.randn(2, 9, 7, 6).double()
    said = layer.sampling(input)
    value = layer.input_proj(input)
    groups, points = said.weights.shape[3:]
    assert said.size == (9, 7) and groups == options['group']
    for group in range(groups):
        x, y = said.locations[:, :, :, group].flatten(1, 3).unbind(-1)
        read = reference.bilinear_sample(value.unflatten(-1, (groups, -1))[..., group, :], x, y)
        read = read.reshape(*said.weights.shape[:3], points, -1) * said.weights[:, :, :, group, :, None]
        expected = layer(input).unflatten(-1, (groups, -1))[..., group, :]
        torch.testing.assert_close(read.sum(3), expected)


def test_what_was_predicted_is_taken():
    layer = randomise(DCNv3(6, group=2))
    input = torch.randn(1, 5, 4, 6).double()
    predicted = torch.randn(1, 5, 4, 2 * 9 * 2).double()
    said = layer.sampling(input, predicted=predicted)
    torch.testing.assert_close(said.offset.flatten(3), predicted)
    torch.testing.assert_close(said.locations - said.regular, said.shift)


@pytest.mark.parametrize('kind', [DeformRoIPoolPack, ModulatedDeformRoIPoolPack])
def test_a_bin_of_a_ramp_is_the_ramp_at_its_centre(kind):
    pool = randomise(kind((2, 3), 1, deform_fc_channels=5, spatial_scale=0.5, sampling_ratio=2))
    pool.offset_fc[4].weight.data.mul_(1e-3)
    y, x = torch.meshgrid(torch.arange(50.0), torch.arange(40.0), indexing='ij')
    rois = torch.tensor([[0, 20, 30, 44, 50], [0, 31, 22, 50, 70]]).double()
    input = (2 * x - y).expand(1, 1, 50, 40).double()
    said = pool.sampling(input, rois)
    place_x, place_y = said.locations[..., 0, 0, :].unbind(-1)
    torch.testing.assert_close(said.weights[..., 0, 0] * (2 * place_x - place_y), pool(input, rois)[:, 0])
    assert said.offset.abs().max() > 0.1
    assert (said.weights == 1).all() == (kind is DeformRoIPoolPack)


def test_position_sensitive_bins_of_each_class():
    pool = randomise(DeformPSRoIPoolPack((2, 3), in_channels=4, classes=2, spatial_scale=0.5, sampling_ratio=2))
    y, x = torch.meshgrid(torch.arange(50.0), torch.arange(40.0), indexing='ij')
    rois = torch.tensor([[0, 20, 30, 44, 50], [0, 31, 22, 50, 70]]).double()
    input, features = (2 * x - y).expand(1, 24, 50, 40).double(), torch.randn(1, 4, 50, 40).double()
    said = pool.sampling(input, rois, features)
    assert said.locations.shape == (2, 2, 3, 2, 1, 2)
    place_x, place_y = said.locations[..., 0, :].unbind(-1)
    expected = (2 * place_x - place_y).permute(0, 3, 1, 2).repeat_interleave(2, dim=1)  # two outputs of each class
    torch.testing.assert_close(expected, pool(input, rois, features))
