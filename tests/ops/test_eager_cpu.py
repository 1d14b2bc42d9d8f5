"""The CPU without a compiler or an observer: steps are joined or another library's, with equal results; only there."""

import copy
import platform
import threading

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ops_dcnv3 import DCNv3, linear

JOINED, PRODUCT = 'ops_dcnv3::depthwise_norm_gelu', 'mkldnn::_linear_pointwise'
CONVOLUTION = 'aten::mkldnn_convolution'
needs_onednn = pytest.mark.skipif(
    platform.machine() not in ('x86_64', 'AMD64') or not torch.backends.mkldnn.is_available(),
    reason='needs a PyTorch with oneDNN, on x86',
)


def operators(function, *arguments) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function(*arguments)
    return {event.name for event in profile.events()}


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


def test_counted_operations_are_those_of_the_modules():
    layer, x = make_layer(channels=16, group=2), torch.randn(1, 6, 7, 16)
    counts = []
    for context in (torch.enable_grad, torch.no_grad):
        with FlopCounterMode(display=False) as counter, context():
            layer(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 2 * 42 * 16 * (16 + 16 + 36 + 18)


@needs_onednn
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(24,), (5, 24), (2, 3, 7, 24), (0, 4, 24)])
def test_linear(shape, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 10, bias=bias), torch.randn(shape)
    expected = layer(x)
    assert PRODUCT not in operators(linear, layer, x)
    with torch.no_grad():
        output = linear(layer, x)
        assert PRODUCT in operators(linear, layer, x)
    assert output.dtype == torch.float32 and not output.requires_grad
    torch.testing.assert_close(output, expected.detach(), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize('bias', [True, False])
def test_linear_with_gradients(bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 10, bias=bias), torch.randn(2, 9, 8, 24, requires_grad=True)
    assert CONVOLUTION in operators(linear, layer, x)
    leaves, grad = [x, *layer.parameters()], torch.randn(2, 9, 8, 10)

    def derivatives(output):
        first = torch.autograd.grad(output, leaves, grad, create_graph=True)
        return output, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves[:2])

    for result, expected in zip(derivatives(linear(layer, x)), derivatives(layer(x)), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    output = linear(layer, x)
    output.sum().backward()
    assert all(t.is_contiguous() for t in (output, x.grad, layer.weight.grad))


def test_linear_with_gradients_is_the_layer_where_a_convolution_is_no_faster():
    layer, x = nn.Linear(24, 10), torch.randn(2, 9, 8, 24)
    for other in (x[:, :7], x.flatten(0, 2), x.flatten(1, 2), x.double()):
        assert CONVOLUTION not in operators(linear, layer.to(other.dtype), other)
    layer.float()
    with torch.autocast('cpu', torch.bfloat16):
        assert CONVOLUTION not in operators(linear, layer, x)


@needs_onednn
def test_linear_takes_any_layout():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 10), torch.randn(2, 6, 5).transpose(1, 2)
    layer.weight = nn.Parameter(torch.randn(6, 10).t())
    expected = layer(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(linear(layer, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('in_dtype', [torch.float32, torch.bfloat16])
def test_linear_under_autocast(in_dtype):
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 10), torch.randn(3, 24).to(in_dtype)
    exact = copy.deepcopy(layer).double()(x.double())
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        output = linear(layer, x)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_linear_in_other_dtypes(dtype):
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 10).to(dtype), torch.randn(3, 24, dtype=dtype)
    with torch.no_grad():
        output = linear(layer, x)
        torch.testing.assert_close(output, layer(x), rtol=2e-2, atol=2e-2)
    assert output.dtype == dtype


@torch.no_grad()
def test_linear_calls_layers_that_are_more_than_a_product():
    class Adapted(nn.Linear):
        def forward(self, input):
            return super().forward(input) + 1

    class Weight(torch.Tensor):
        pass

    x, plain = torch.randn(3, 4), nn.Linear(4, 5)
    adapted = Adapted(4, 5)
    assert torch.equal(linear(adapted, x), adapted(x))
    weighted = copy.deepcopy(plain)
    weighted.weight = nn.Parameter(plain.weight.detach().as_subclass(Weight))
    assert PRODUCT not in operators(linear, weighted, x)
    parametrised = copy.deepcopy(plain)
    nn.utils.parametrizations.weight_norm(parametrised)
    nn.init.constant_(parametrised.parametrizations.weight.original0, 2.0)
    torch.testing.assert_close(linear(parametrised, x), parametrised(x))
    seen, hooked = [], copy.deepcopy(plain)
    hooked.register_forward_hook(lambda module, inputs, output: seen.append(output) or output * 2)
    assert torch.equal(linear(hooked, x), seen[0] * 2)


@torch.no_grad()
def test_linear_raises_what_the_layer_raises():
    layer = nn.Linear(4, 5)
    for wrong in (torch.randn(3, 6), torch.randn(3, 4).bfloat16(), torch.randn(3, 4, device='meta')):
        with pytest.raises(RuntimeError) as expected:
            layer(wrong)
        with pytest.raises(RuntimeError) as error:
            linear(layer, wrong)
        assert str(error.value) == str(expected.value)


@torch.no_grad()
def test_linear_leaves_onednn_where_it_is_switched_off():
    layer, x = nn.Linear(4, 5), torch.randn(3, 4)
    with torch.backends.mkldnn.flags(enabled=False):
        assert PRODUCT not in operators(linear, layer, x)
        with torch.enable_grad():
            assert CONVOLUTION not in operators(linear, layer, torch.randn(2, 10, 10, 4))


@torch.no_grad()
def test_linear_sees_changed_weights():
    layer, x = nn.Linear(4, 5), torch.randn(3, 4)
    linear(layer, x)
    layer.weight.data.fill_(1)
    layer.bias.data.fill_(2)
    torch.testing.assert_close(linear(layer, x), (x.sum(1, keepdim=True) + 2).expand(3, 5))


def test_linear_in_two_threads():
    layer, inputs = nn.Linear(64, 64), torch.randn(2, 300, 64)
    outputs = [None, None]

    def run(i):
        with torch.no_grad():
            for _ in range(50):
                outputs[i] = linear(layer, inputs[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    torch.testing.assert_close(torch.stack(outputs), layer(inputs).detach(), rtol=1e-5, atol=1e-5)
