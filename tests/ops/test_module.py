import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ops_dcnv3 import DCNv3, dcnv3


def test_starts_as_an_average_of_the_projected_input(device):
    """Zero offsets and equal weights: a 3 x 3 mean that counts the zeros outside, between two linear layers."""
    torch.manual_seed(0)
    layer = DCNv3(channels=12, group=3).to(device)
    x = torch.randn(2, 7, 9, 12, device=device)
    projected = layer.input_proj(x).permute(0, 3, 1, 2)
    mean = F.avg_pool2d(projected, 3, stride=1, padding=1, count_include_pad=True).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(x), layer.output_proj(mean), rtol=1e-5, atol=1e-6)


def test_official_parameter_names():
    names = {
        f'{module}.{kind}'
        for module in ('dw_conv.0', 'dw_conv.1.1', 'offset', 'mask', 'input_proj', 'output_proj')
        for kind in ('weight', 'bias')
    }
    layer = DCNv3(channels=16, group=2)
    assert {name for name, _ in layer.named_parameters()} == names
    assert layer.offset.weight.shape == (2 * 9 * 2, 16) and layer.mask.weight.shape == (2 * 9, 16)
    scaled = DCNv3(channels=16, group=2, center_feature_scale=True, remove_center=True, dw_kernel_size=5)
    extra = {'center_feature_scale_proj_weight', 'center_feature_scale_proj_bias'}
    assert {name for name, _ in scaled.named_parameters()} == names | extra
    assert scaled.mask.weight.shape == (2 * 8, 16) and scaled.dw_conv[0].weight.shape == (16, 1, 5, 5)


@pytest.mark.parametrize(
    'options',
    [
        dict(stride=2),
        dict(stride=2, dw_kernel_size=5, center_feature_scale=True),
        dict(stride=3, pad=0),
        dict(kernel_size=5, pad=2, stride=2),
        dict(dilation=2, pad=2, dw_kernel_size=3, remove_center=True),
        dict(kernel_size=2, pad=1),
        dict(norm_layer='BN', act_layer='SiLU', offset_scale=2.0),
    ],
)
def test_any_option_trains(options, device):
    """Strides and pads that the official module has but gets wrong."""
    torch.manual_seed(0)
    layer = DCNv3(channels=8, group=2, **options).to(device)
    x = torch.randn(2, 11, 14, 8, device=device)
    output = layer(x)
    k, d, s, p = layer.kernel_size, layer.dilation, layer.stride, layer.pad
    assert output.shape == (2, *((size + 2 * p - d * (k - 1) - 1) // s + 1 for size in (11, 14)), 8)
    output.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert layer.offset.weight.grad.count_nonzero() > 0 and layer.mask.weight.grad.count_nonzero() > 0


def test_offsets_of_a_strided_layer_belong_to_their_pixels(device):
    """A strided layer is the unstrided one at every second pixel."""
    torch.manual_seed(0)
    dense, strided = (DCNv3(channels=8, group=2, stride=stride).to(device) for stride in (1, 2))
    for parameter in dense.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    strided.load_state_dict(dense.state_dict())
    x = torch.randn(1, 9, 12, 8, device=device)
    torch.testing.assert_close(strided(x), dense(x)[:, ::2, ::2], rtol=1e-4, atol=1e-5)


def test_center_feature_scale_mixes_with_the_projected_input(device):
    torch.manual_seed(0)
    layer = DCNv3(channels=8, group=2, center_feature_scale=True).to(device)
    plain = DCNv3(channels=8, group=2).to(device)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith('center')})
    x = torch.randn(1, 5, 6, 8, device=device)
    with torch.no_grad():
        layer.center_feature_scale_proj_bias.fill_(100)  # sigmoid 1: only the projected input
        torch.testing.assert_close(layer(x), layer.output_proj(layer.input_proj(x)))
        layer.center_feature_scale_proj_bias.fill_(-100)  # sigmoid 0: only the samples
        torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(dtype, device):
    torch.manual_seed(0)
    layer = DCNv3(channels=16, group=4).to(device)
    x = torch.randn(2, 6, 7, 16, device=device)
    with torch.autocast(device.type, dtype):
        output = layer(x)
    output.float().square().mean().backward()
    torch.testing.assert_close(output.float(), layer(x), rtol=0.05, atol=0.02)
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(channels=10, group=4), 'divisible by group, got 10 and 4'),
        (dict(remove_center=True, kernel_size=4), 'odd kernel_size larger than 1, got 4'),
        (dict(dw_kernel_size=4), 'dw_kernel_size 4, kernel_size 3, dilation 1, pad 1'),
        (dict(pad=0, center_feature_scale=True), 'got pad 0, dilation 1, kernel_size 3'),
        (dict(act_layer='tanh'), "act_layer must be one of .* got 'tanh'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        DCNv3(**{**dict(channels=16, group=4), **options})


def test_wrong_layout_is_an_error():
    with pytest.raises(ValueError, match=r'must be \(N, H, W, 16\), got shape \(2, 16, 5, 5\)'):
        DCNv3(channels=16)(torch.zeros(2, 16, 5, 5))


def test_only_the_public_operator_is_behind_the_layer(device):
    """The layer is projections around `dcnv3`: the same tensors by hand."""
    torch.manual_seed(0)
    layer = DCNv3(channels=8, group=2, offset_scale=1.5).to(device)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, 6, 5, 8, device=device)
    local = layer.dw_conv(x.permute(0, 3, 1, 2))
    mask = layer.mask(local).reshape(1, 6, 5, 2, 9).softmax(-1).reshape(1, 6, 5, 18)
    by_hand = layer.output_proj(
        dcnv3(layer.input_proj(x), layer.offset(local), mask, groups=2, offset_scale=1.5)
    )  # fmt: skip
    torch.testing.assert_close(layer(x), by_hand)


def test_numbers_of_numpy():
    torch.manual_seed(0)
    layer = DCNv3(
        channels=np.int64(8), kernel_size=np.int32(3), dw_kernel_size=np.uint8(5), stride=np.int16(2), pad=np.int64(1),
        dilation=np.int64(1), group=np.int64(2), offset_scale=np.float32(1.5), center_feature_scale=True,
    )  # fmt: skip
    plain = DCNv3(8, 3, 5, 2, 1, 1, 2, 1.5, center_feature_scale=True)
    plain.load_state_dict(layer.state_dict())
    assert all(type(getattr(layer, name)) is int for name in ('channels', 'kernel_size', 'stride', 'group'))
    x = torch.randn(2, 6, 7, 8)
    assert torch.equal(layer(x), plain(x))


def test_windows_that_are_not_square(device):
    """Each axis is that of a square layer: a map that is the same along one axis, away from the borders."""
    torch.manual_seed(0)
    square = DCNv3(8, (3, 3), group=2)
    assert square.kernel_size == 3 and square.dw_kernel_size == 3
    layer = DCNv3(8, (3, 5), pad=(1, 2), stride=(1, 2), group=2).to(device)
    assert layer.kernel_size == (3, 5) and layer.dw_conv[0].weight.shape == (8, 1, 3, 5)
    x = torch.randn(2, 6, 9, 8, device=device)
    output = layer(x)
    assert output.shape == (2, 6, 5, 8)
    mean = F.avg_pool2d(layer.input_proj(x).permute(0, 3, 1, 2), (3, 5), (1, 2), (1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(output, layer.output_proj(mean), rtol=1e-5, atol=1e-6)
    scaled = DCNv3(8, (1, 3), pad=(0, 1), stride=(2, 1), group=2, center_feature_scale=True).to(device)
    assert scaled(x).shape == (2, 3, 9, 8)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(kernel_size=True), 'kernel_size must be an int or a pair of ints .* got True'),
        (dict(kernel_size=3.0), 'kernel_size must be an int or a pair of ints .* got 3.0'),
        (dict(kernel_size=(3, 3, 3)), r'kernel_size must be .* got \(3, 3, 3\)'),
        (dict(kernel_size=torch.tensor(3)), r'kernel_size must be .* got tensor\(3\)'),
        (dict(stride=np.bool_(True)), 'stride must be .* got np.True_'),
        (dict(group=True), 'group must be a positive int, got True'),
        (dict(group=4.0), 'group must be a positive int, got 4.0'),
        (dict(channels='16'), "channels must be a positive int, got '16'"),
        (dict(offset_scale=True), 'offset_scale must be a finite number, got True'),
        (dict(offset_scale=float('nan')), 'offset_scale must be a finite number, got nan'),
        (dict(pad=2**40), f'pad must be at most 2147483647, got {2**40}'),
    ],
)
def test_numbers_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        DCNv3(**{**dict(channels=16, group=4), **options})


def test_scripting_is_refused():
    with pytest.raises(NotImplementedError, match='torch.jit.script does not take this layer'):
        torch.jit.script(DCNv3(channels=16, group=4))
