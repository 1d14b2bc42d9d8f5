"""The operator behind the layer's depthwise convolution, norm and GELU in inference."""

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from profiled import operators
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ops_dcnv3 import DCNv3

depthwise_norm_gelu = torch.ops.ops_dcnv3.depthwise_norm_gelu
FUSED = depthwise_norm_gelu.default
JOINED = 'ops_dcnv3::depthwise_norm_gelu'


def make_inputs(channels=20, size=(5, 7), kernel=(3, 3), batch=2, dtype=torch.float64):
    torch.manual_seed(0)
    weight = torch.randn(channels, 1, *kernel, dtype=torch.float64)
    bias, norm_weight, norm_bias = torch.randn(3, channels, dtype=torch.float64)
    input = torch.randn(batch, *size, channels, dtype=torch.float64)
    return [t.to(dtype) for t in (input, weight, bias, norm_weight, norm_bias)]


def step_by_step(input, weight, bias, norm_weight, norm_bias, eps, stride, padding):
    channels = input.shape[-1]
    x = F.conv2d(input.permute(0, 3, 1, 2), weight, bias, stride, padding, groups=channels).permute(0, 2, 3, 1)
    return F.gelu(F.layer_norm(x, (channels,), norm_weight, norm_bias, eps))


@pytest.mark.parametrize('channels', [1, 3, 16, 70])
@pytest.mark.parametrize(
    'kernel, stride, padding',
    [
        ((3, 3), (1, 1), (1, 1)),
        ((5, 5), (1, 1), (2, 2)),
        ((2, 3), (1, 1), (0, 3)),
        ((3, 5), (2, 1), (1, 0)),
        ((5, 3), (1, 2), (3, 1)),
        ((1, 4), (3, 1), (0, 2)),
    ],
)
@pytest.mark.parametrize(
    'dtype, tolerance',
    [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.float16, 2e-2), (torch.bfloat16, 0.15)],
)
def test_is_three_steps_in_one(channels, kernel, stride, padding, dtype, tolerance, device):
    tensors = [t.to(device) for t in make_inputs(channels, (6, 21), kernel, dtype=dtype)]
    exact = step_by_step(*[t.double() for t in tensors], 1e-3, stride, padding)
    output = depthwise_norm_gelu(*tensors, 1e-3, stride, padding)
    assert output.dtype == dtype and output.is_contiguous()
    torch.testing.assert_close(output.double(), exact, rtol=tolerance, atol=tolerance)


def test_parameters_may_be_float32_beside_a_16_bit_input(device):
    """As under autocast, which leaves parameters as they are."""
    input, *parameters = [t.to(device) for t in make_inputs()]
    exact = step_by_step(input, *parameters, 1e-6, (1, 1), (1, 1))
    output = depthwise_norm_gelu(input.bfloat16(), *[t.float() for t in parameters], 1e-6, (1, 1), (1, 1))
    torch.testing.assert_close(output.double(), exact, rtol=0.1, atol=0.1)


def test_other_layouts(device):
    input, weight, bias, norm_weight, norm_bias = [t.to(device) for t in make_inputs()]
    expected = depthwise_norm_gelu(input, weight, bias, norm_weight, norm_bias, 1e-6, (1, 1), (1, 1))
    strided = input.transpose(1, 2).contiguous().transpose(1, 2)
    transposed = weight.contiguous(memory_format=torch.channels_last)
    output = depthwise_norm_gelu(strided, transposed, bias, norm_weight, norm_bias, 1e-6, (1, 1), (1, 1))
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    without_bias = depthwise_norm_gelu(input, weight, None, norm_weight, norm_bias, 1e-6, (1, 1), (1, 1))
    zeros = torch.zeros_like(bias)
    with_zeros = depthwise_norm_gelu(input, weight, zeros, norm_weight, norm_bias, 1e-6, (1, 1), (1, 1))
    torch.testing.assert_close(without_bias, with_zeros, rtol=1e-12, atol=1e-12)
    empty = depthwise_norm_gelu(input[:0], weight, bias, norm_weight, norm_bias, 1e-6, (1, 1), (1, 1))
    assert empty.shape == (0, *input.shape[1:])


def test_nan_stays_in_the_windows_that_read_it(device):
    input, *parameters = [t.to(device) for t in make_inputs(size=(6, 30), batch=1, dtype=torch.float32)]
    clean = depthwise_norm_gelu(input, *parameters, 1e-6, (1, 1), (1, 1))
    input[0, 2, 11, 0] = float('nan')
    spoiled = depthwise_norm_gelu(input, *parameters, 1e-6, (1, 1), (1, 1))
    assert spoiled[0, 1:4, 10:13].isnan().all()  # the norm spreads it over the channels
    spoiled[0, 1:4, 10:13] = clean[0, 1:4, 10:13]
    assert torch.equal(spoiled, clean)


def test_does_not_depend_on_the_number_of_threads():
    arguments = (*make_inputs(64, (37, 41), dtype=torch.float32), 1e-6, (1, 1), (1, 1))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = depthwise_norm_gelu(*arguments)
        torch.set_num_threads(3)
        assert torch.equal(alone, depthwise_norm_gelu(*arguments))
    finally:
        torch.set_num_threads(threads)


def test_is_composed_where_there_is_no_kernel():
    """What CUDA runs, here with tensors of the CPU."""
    arguments = (*make_inputs(), 1e-6, (2, 1), (1, 0))
    composed = FUSED._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *arguments)
    torch.testing.assert_close(composed, depthwise_norm_gelu(*arguments), rtol=1e-12, atol=1e-12)


def test_pytorch_knows_the_operator(device):
    arguments = (*[t.to(device) for t in make_inputs(kernel=(3, 5))], 1e-6, (2, 1), (1, 0))
    torch.library.opcheck(FUSED, arguments, test_utils=('test_schema', 'test_faketensor'))


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(input=torch.zeros(2, 5, 20)), r'input must be \(N, H, W, C\)'),
        (dict(weight=torch.zeros(19, 1, 3, 3)), r'weight must be \(20, 1, height, width\)'),
        (dict(norm_weight=torch.zeros(19)), r'must be \(20\), got shape'),
        (dict(input=torch.zeros(1, 1, 1, 20), padding=(0, 0)), 'the kernel must fit into the padded input'),
        (dict(stride=(0, 1)), 'stride must be a positive pair'),
    ],
)
def test_errors(change, message):
    names = ('input', 'weight', 'bias', 'norm_weight', 'norm_bias', 'eps', 'stride', 'padding')
    arguments = dict(zip(names, (*make_inputs(dtype=torch.float32), 1e-6, (1, 1), (1, 1)), strict=True))
    with pytest.raises(RuntimeError, match=message):
        depthwise_norm_gelu(**{**arguments, **change})


def make_layer(**options) -> DCNv3:
    torch.manual_seed(0)
    layer = DCNv3(**options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return layer


@pytest.mark.parametrize('options', [dict(), dict(stride=2), dict(dw_kernel_size=5), dict(center_feature_scale=True)])
def test_the_layer_gives_the_same_with_and_without_gradients(options):
    layer, x = make_layer(channels=32, group=2, **options), torch.randn(2, 9, 14, 32)
    trained = layer(x)
    assert JOINED not in operators(layer, x)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), trained, rtol=1e-4, atol=1e-4)
        assert JOINED in operators(layer, x)


def test_the_layer_keeps_to_its_modules_where_the_joined_operator_is_not_the_same():
    x = torch.randn(1, 4, 5, 8)
    with torch.no_grad():
        for options in (dict(norm_layer='BN'), dict(act_layer='SiLU'), dict(act_layer='ReLU')):
            assert JOINED not in operators(DCNv3(channels=8, group=2, **options), x)
        seen, layer = [], DCNv3(channels=8, group=2)
        handle = layer.dw_conv[1].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
        assert JOINED not in operators(layer, x) and seen == [(1, 4, 5, 8)]
        handle.remove()
        assert JOINED in operators(layer, x)
        layer.dw_conv[2] = nn.GELU(approximate='tanh')
        assert JOINED not in operators(layer, x)


def change(part, make):
    """A change of the layer: another module in the place of the convolution, the norm or the activation."""

    def apply(layer):
        owner, position = {'conv': (layer.dw_conv, 0), 'norm': (layer.dw_conv[1], 1), 'act': (layer.dw_conv, 2)}[part]
        owner[position] = make()

    return apply


def hook_in_place(layer):
    layer.dw_conv[0].register_forward_hook(lambda module, inputs, output: output.mul_(2))


class Weight(torch.Tensor):
    pass


def subclass_weight(layer):
    layer.dw_conv[0].weight = nn.Parameter(layer.dw_conv[0].weight.detach().as_subclass(Weight))


class LargerConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


def conv(**options):
    return lambda: nn.Conv2d(**{**dict(in_channels=8, out_channels=8, kernel_size=3, padding=1, groups=8), **options})


CHANGES = {
    **{f'padding_mode {m}': change('conv', conv(padding_mode=m)) for m in ('reflect', 'circular', 'replicate')},
    'padding same': change('conv', conv(padding='same')),
    'padding valid': change('conv', conv(kernel_size=1, padding='valid')),
    'padding same, dilated': change('conv', conv(padding='same', dilation=2)),
    'dilation': change('conv', conv(padding=2, dilation=2)),
    'dilation of one axis': change('conv', conv(padding=(1, 2), dilation=(1, 2))),
    'dense': change('conv', conv(groups=1)),
    'some groups': change('conv', conv(groups=4)),
    'of a subclass': change('conv', lambda: LargerConv(8, 8, 3, padding=1, groups=8)),
    'spectral norm': lambda layer: nn.utils.parametrizations.spectral_norm(layer.dw_conv[0].eval()),
    'old spectral norm': lambda layer: nn.utils.spectral_norm(layer.dw_conv[0]).eval(),
    'weight norm of the norm': lambda layer: nn.utils.parametrizations.weight_norm(layer.dw_conv[1][1], dim=None),
    'pruned': lambda layer: nn.utils.prune.l1_unstructured(layer.dw_conv[0], 'weight', 0.5),
    'a hook': hook_in_place,
    'a weight of a subclass': subclass_weight,
    'a forward of its own': lambda layer: setattr(layer.dw_conv[1][1], 'forward', torch.sin),
    'norm without affine': change('norm', lambda: nn.LayerNorm(8, elementwise_affine=False)),
    'norm without bias': change('norm', lambda: nn.LayerNorm(8, bias=False)),
    'norm over columns too': change('norm', lambda: nn.LayerNorm((7, 8))),
    'norm of another kind': change('norm', lambda: nn.RMSNorm(8)),
    'no norm': change('norm', nn.Identity),
    'GELU of tanh': change('act', lambda: nn.GELU(approximate='tanh')),
    'no activation': change('act', nn.Identity),
    'another nesting': lambda layer: setattr(layer, 'dw_conv', nn.Sequential(*layer.dw_conv[:1], *layer.dw_conv[1:])),
    'deeper': lambda layer: setattr(layer, 'dw_conv', nn.Sequential(*layer.dw_conv, nn.Tanh())),
}
STAYS_JOINED = {
    'no bias': change('conv', conv(bias=False)),
    'another eps': change('norm', lambda: nn.LayerNorm(8, eps=0.3)),
    'a larger kernel': change('conv', conv(kernel_size=(5, 3), padding=(2, 1))),
    'frozen': lambda layer: layer.requires_grad_(False),
    'channels_last': lambda layer: layer.to(memory_format=torch.channels_last),
    'another nesting': CHANGES.pop('another nesting'),
}


@pytest.mark.parametrize('name', [*CHANGES, *STAYS_JOINED])
def test_the_layer_after_surgery_gives_the_same_with_and_without_gradients(name):
    torch.manual_seed(0)
    layer, x = make_layer(channels=8, group=2), torch.randn(2, 5, 7, 8)
    {**CHANGES, **STAYS_JOINED}[name](layer)
    trained = layer(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), trained, rtol=1e-4, atol=1e-4)
        assert (JOINED in operators(layer, x)) == (name in STAYS_JOINED)


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize(
    'input, conv, norm',
    [
        (torch.float64, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float32),
        (torch.float32, torch.float32, torch.float64),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float64),
        (torch.float32, torch.float32, torch.bfloat16),
    ],
)
def test_dtypes_are_those_that_the_modules_take(input, conv, norm, autocast):
    layer, x = make_layer(channels=8, group=2), torch.randn(2, 5, 7, 8, dtype=input)
    layer.dw_conv[0].to(conv)
    layer.dw_conv[1].to(norm)

    def local(context):
        with context(), torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            features = x.bfloat16() if autocast and input == torch.float32 else x
            try:
                return layer._local_features(features).float()
            except (RuntimeError, TypeError) as error:
                return str(error)

    trained, result = local(torch.enable_grad), local(torch.no_grad)
    if isinstance(trained, str):
        assert result == trained
    else:
        torch.testing.assert_close(result, trained.detach(), rtol=0.05, atol=0.05)


def test_parameters_elsewhere_are_refused_as_by_the_modules():
    layer, x = make_layer(channels=8, group=2), torch.randn(2, 5, 7, 8)
    layer.dw_conv[1].to('meta')
    errors = []
    for context in (torch.enable_grad, torch.no_grad):
        with context(), pytest.raises(Exception) as error:
            layer(x)
        errors.append((error.type, str(error.value)))
    assert errors[0] == errors[1]


def test_a_function_mode_sees_the_steps():
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(getattr(function, '__name__', ''))
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        make_layer(channels=8, group=2)(torch.randn(1, 4, 5, 8))
    assert {'conv2d', 'layer_norm', 'gelu', 'linear'} <= set(seen)


def test_counted_operations_are_those_of_the_modules():
    layer, x = make_layer(channels=16, group=2), torch.randn(1, 6, 7, 16)
    counts = []
    for context in (torch.enable_grad, torch.no_grad):
        with FlopCounterMode(display=False) as counter, context():
            layer(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 2 * 42 * 16 * (16 + 16 + 36 + 18)
