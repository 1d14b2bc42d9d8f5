"""The operators out of PyTorch's own: against the specification, and as graphs with symbolic sizes."""

import pytest
import torch
from torch.export import Dim

from ops_dcnv3 import composed, reference

# Two RoIs reach out of the image, one lies outside; the fourth has no area, the last few rows of samples.
ROIS = [[0, 1, 2, 20, 11], [1, -5, 3, 7, 30], [1, 60, 60, 70, 75], [1, 3, 3, 3, 3], [0, 4, 4, 15, 4.5]]


def dcnv3_arguments(kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=3, remove_center=False):
    batch, size, channels = 2, (9, 11), 12
    out = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    points = groups * (kernel[0] * kernel[1] - remove_center)
    input = torch.randn(batch, *size, channels, dtype=torch.float64)
    offset = 3 * torch.randn(batch, *out, 2 * points, dtype=torch.float64)
    mask = torch.randn(batch, *out, points, dtype=torch.float64)
    return input, offset, mask, kernel, stride, padding, dilation, groups


@pytest.mark.parametrize('softmax', [False, True])
@pytest.mark.parametrize(
    'geometry',
    [
        dict(),
        dict(kernel=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        dict(kernel=(5, 3), padding=(0, 2), groups=1),
        dict(remove_center=True),
    ],
)
def test_dcnv3_is_that_of_the_specification(geometry, softmax):
    torch.manual_seed(0)
    arguments = (*dcnv3_arguments(**geometry), 1.5, geometry.get('remove_center', False), softmax)
    expected = reference.dcnv3(*arguments)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(composed.dcnv3(*arguments), expected)


@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('kind', ['regular', 'deformable', 'modulated', 'ps', 'deformable ps'])
def test_roi_pools_are_those_of_the_specification(kind, sampling_ratio):
    torch.manual_seed(0)
    input = torch.randn(2, 24, 13, 10, dtype=torch.float64)
    rois = torch.tensor(ROIS, dtype=torch.float64)
    offset = 3 * torch.randn(len(rois), 2, 3, 2, dtype=torch.float64)
    where = (3, 2), 0.5, sampling_ratio
    arguments = {
        'regular': (None, *where),
        'deformable': (offset, *where, 0.3),
        'modulated': (offset, *where, 0.3, torch.rand(len(rois), 3, 2, dtype=torch.float64)),
        'ps': where,
        'deformable ps': (torch.cat([offset, -offset], 1), *where, 0.3),
    }[kind]
    name = {'ps': 'ps_roi_pool', 'deformable ps': 'deform_ps_roi_pool'}.get(kind, 'deform_roi_pool')
    expected = getattr(reference, name)(input, rois, *arguments)
    assert expected[:2].abs().max() > 0.1
    torch.testing.assert_close(getattr(composed, name)(input, rois, *arguments), expected)


def test_attention_adds_up_weighted_samples_of_all_levels():
    # Levels of 2 x 3 and 1 x 2 pixels; pixel (row, column) of the first one holds 10 * row + column, of the second 100.
    value = torch.tensor([0, 1, 2, 10, 11, 12, 100, 100.0]).reshape(1, 8, 1, 1)
    sizes = torch.tensor([[2, 3], [1, 2]])
    # (x, y) = (1/2, 1/2) is the middle of both levels, of the first one (11 + 1) / 2; (1/6, 3/4) is the centre of pixel
    # (1, 0).
    locations = torch.tensor([[[0.5, 0.5], [1 / 6, 0.75]], [[0.5, 0.5], [0.0, 0.5]]]).reshape(1, 1, 1, 2, 2, 2)
    weights = torch.tensor([[1.0, 2.0], [0.1, 0.01]]).reshape(1, 1, 1, 2, 2)
    # The last point lies on the left border of pixel (0, 0) of the second level: half of it is outside and reads 0.
    expected = 6 + 2 * 10 + 0.1 * 100 + 0.01 * 50
    for shapes in (sizes, [(2, 3), (1, 2)]):
        output = composed.ms_deform_attn(value, shapes, None, locations, weights)
        torch.testing.assert_close(output, torch.full((1, 1, 1), expected))


def test_attention_keeps_images_heads_and_channels_apart():
    torch.manual_seed(0)
    sizes, batch, queries, heads, depth, points = [(4, 5), (2, 3)], 2, 7, 3, 2, 4
    value = torch.randn(batch, 26, heads, depth)
    locations, weights = torch.rand(batch, queries, heads, 2, points, 2), torch.rand(batch, queries, heads, 2, points)
    whole = composed.ms_deform_attn(value, sizes, None, locations, weights)
    assert whole.shape == (batch, queries, heads * depth)
    for head in range(heads):
        part = slice(head, head + 1)
        alone = composed.ms_deform_attn(value[1:, :, part], sizes, None, locations[1:, :, part], weights[1:, :, part])
        torch.testing.assert_close(alone, whole[1:, :, head * depth : (head + 1) * depth])


class Pool(torch.nn.Module):
    def forward(self, input, rois, offset):
        return composed.deform_roi_pool(input, rois, offset, (3, 2), 0.5, 0, 0.3)


def test_exported_with_symbolic_sizes():
    torch.manual_seed(0)
    offset = torch.randn(len(ROIS), 2, 3, 2)
    batch, height, width, number = Dim('batch'), Dim('height'), Dim('width'), Dim('number', max=1000)
    program = torch.export.export(
        Pool(),
        (torch.randn(3, 4, 9, 8), torch.tensor(ROIS), offset),
        dynamic_shapes=({0: batch, 2: height, 3: width}, {0: number}, {0: number}),
        strict=False,
    )
    assert not [node for node in program.graph.nodes if 'ops_dcnv3' in str(node.target)]
    input, rois = torch.randn(2, 4, 13, 10), torch.tensor(ROIS)[:2]
    found = program.module()(input, rois, offset[:2])
    torch.testing.assert_close(found, reference.deform_roi_pool(input, rois, offset[:2], (3, 2), 0.5, 0, 0.3))
