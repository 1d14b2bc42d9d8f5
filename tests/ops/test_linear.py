"""The linear layer against PyTorch's own: the same in all but the time that it takes on the CPU."""

import copy
import platform
import threading

import pytest
import torch
import torch.utils.checkpoint
from profiled import operators
from torch import nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from ops_dcnv3 import DCNv3, Linear

PRODUCT, CONVOLUTION = 'mkldnn::_linear_pointwise', 'aten::conv2d'  # whose library depends on the number of threads
needs_onednn = pytest.mark.skipif(
    platform.machine() not in ('x86_64', 'AMD64') or not torch.backends.mkldnn.is_available(),
    reason='needs a PyTorch with oneDNN, on x86',
)
with_and_without_gradients = pytest.mark.parametrize('context', [torch.no_grad, torch.enable_grad])


def make_layers(in_features=24, out_features=10, bias=True, **factory) -> tuple[Linear, nn.Linear]:
    """Ours and PyTorch's, with the same parameters."""
    torch.manual_seed(0)
    ours, plain = (kind(in_features, out_features, bias, **factory) for kind in (Linear, nn.Linear))
    plain.weight, plain.bias = ours.weight, ours.bias
    return ours, plain


@needs_onednn
def test_the_dcnv3_layer_takes_its_products_from_onednn():
    layer, x = DCNv3(channels=16, group=2), torch.randn(2, 9, 8, 16)
    assert operators(layer, x)[CONVOLUTION] == 4 + 1  # and the depthwise one
    with torch.no_grad():
        assert operators(layer, x)[PRODUCT] == 4


@needs_onednn
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(24,), (5, 24), (2, 3, 7, 24), (0, 4, 24)])
def test_without_gradients(shape, bias):
    ours, plain = make_layers(bias=bias)
    x = torch.randn(shape)
    with torch.no_grad():
        assert PRODUCT in operators(ours, x)
        torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)


def test_pytorch_knows_the_operator(device):
    ours, _ = make_layers(device=device)
    arguments = torch.randn(2, 9, 8, 24, device=device), ours.weight.detach(), ours.bias.detach()
    torch.library.opcheck(torch.ops.ops_dcnv3.linear.default, arguments, test_utils=('test_schema', 'test_faketensor'))


@needs_onednn
@pytest.mark.parametrize('bias', [True, False])
def test_with_gradients(bias):
    ours, plain = make_layers(bias=bias)
    x, grad = torch.randn(2, 9, 8, 24, requires_grad=True), torch.randn(2, 9, 8, 10)
    assert CONVOLUTION in operators(ours, x)
    leaves = [x, *ours.parameters()]

    def derivatives(layer):
        output = layer(x)
        first = torch.autograd.grad(output, leaves, grad, create_graph=True)
        return output, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves[:2])

    for result, expected in zip(derivatives(ours), derivatives(plain), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    ours(x).sum().backward()
    assert x.grad.is_contiguous() and ours.weight.grad.is_contiguous()


@needs_onednn
def test_convolves_only_where_that_is_faster():
    x = torch.randn(2, 9, 8, 24)
    for other in (x[:, :7], x.flatten(0, 2), x.flatten(1, 2), x.double()):
        ours, _ = make_layers(dtype=other.dtype)
        assert CONVOLUTION not in operators(ours, other)
    ours, _ = make_layers()
    with torch.autocast('cpu', torch.bfloat16):
        assert CONVOLUTION not in operators(ours, x)


@with_and_without_gradients
def test_any_layout(context):
    ours, plain = make_layers()
    ours.weight = plain.weight = nn.Parameter(torch.randn(24, 10).t())
    x = torch.randn(2, 24, 9, 11)
    with context():
        for view in (x.permute(0, 2, 3, 1), x[:1].expand(3, 24, 9, 11).permute(0, 3, 2, 1)):
            output = ours(view)
            assert output.is_contiguous()
            torch.testing.assert_close(output, plain(view), rtol=1e-5, atol=1e-5)


@with_and_without_gradients
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype, context):
    ours, plain = make_layers(dtype=dtype)
    x = torch.randn(2, 9, 8, 24, dtype=dtype)
    rounding = dict(rtol=1e-5, atol=1e-5) if dtype.itemsize > 2 else dict(rtol=2e-2, atol=2e-2)
    with context():
        torch.testing.assert_close(ours(x), plain(x), **rounding)


@with_and_without_gradients
@pytest.mark.parametrize('cast_to', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_autocast(dtype, cast_to, context):
    ours, plain = make_layers(dtype=dtype)
    x = torch.randn(2, 9, 8, 24, dtype=dtype)
    with context(), torch.autocast('cpu', cast_to):
        torch.testing.assert_close(ours(x), plain(x), rtol=2e-2, atol=2e-2)  # and the dtype of the result
        with torch.autocast('cpu', enabled=False):
            assert ours(x).dtype == dtype


@with_and_without_gradients
def test_weights_that_are_more_than_numbers(context):
    class Weight(torch.Tensor):
        pass

    ours, plain = make_layers()
    x, parametrised = torch.randn(2, 9, 8, 24), copy.deepcopy(ours)
    nn.utils.parametrizations.weight_norm(parametrised)
    nn.init.constant_(parametrised.parametrizations.weight.original0, 2.0)
    ours.weight = nn.Parameter(ours.weight.detach().as_subclass(Weight))
    with context():
        expected = nn.functional.linear(x, parametrised.weight, parametrised.bias)
        torch.testing.assert_close(parametrised(x), expected, rtol=1e-5, atol=1e-5)
        assert not {PRODUCT, CONVOLUTION} & set(operators(ours, x))


@with_and_without_gradients
@pytest.mark.parametrize('hook', ['forward', 'forward_pre', 'full_backward', 'full_backward_pre', 'module_forward'])
def test_hooks_run(hook, context):
    (ours, _), x, calls = make_layers(), torch.randn(2, 9, 8, 24, requires_grad=True), []
    owner = nn.modules.module if hook.startswith('module_') else ours
    handle = getattr(owner, f'register_{hook}_hook')(lambda *arguments: calls.append(hook))
    try:
        with context():
            output = ours(x)
        if output.requires_grad:
            output.sum().backward()
    finally:
        handle.remove()
    assert len(calls) == (context is torch.enable_grad or 'backward' not in hook)


@with_and_without_gradients
def test_transforms(context):
    ours, plain = make_layers()
    x, tangent = torch.randn(2, 2, 9, 8, 24)
    expected = tangent @ ours.weight.T.detach()
    with context():
        torch.testing.assert_close(torch.func.jvp(ours, (x,), (tangent,))[1], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.func.vmap(ours)(x), plain(x), rtol=1e-5, atol=1e-5)
        with forward_ad.dual_level():
            dual = forward_ad.unpack_dual(ours(forward_ad.make_dual(x, tangent)))
        torch.testing.assert_close(dual.tangent, expected, rtol=1e-5, atol=1e-5)


def test_counted_operations_are_those_of_a_product():
    (ours, _), x = make_layers(), torch.randn(2, 9, 8, 24)
    for context in (torch.no_grad, torch.enable_grad):
        with FlopCounterMode(display=False) as counter, context():
            ours(x)
        assert counter.get_total_flops() == 2 * x.numel() * 10


def test_a_checkpoint_may_be_counted_in_part():
    (ours, _), x = make_layers(), torch.randn(2, 9, 8, 24, requires_grad=True)
    with FlopCounterMode(display=False):
        output = torch.utils.checkpoint.checkpoint(ours, x, use_reentrant=False)
    output.sum().backward()
    torch.testing.assert_close(x.grad, ours.weight.detach().sum(0).expand_as(x))


@with_and_without_gradients
def test_raises_what_pytorch_raises(context):
    x = torch.randn(2, 9, 8, 24)
    short = make_layers()
    short[0].bias = short[1].bias = nn.Parameter(torch.zeros(3))
    wrong_inputs = (x[..., :3], x.bfloat16(), x.to('meta'), x.long(), torch.tensor(1.0))
    cases = [(make_layers(), wrong) for wrong in wrong_inputs]
    cases += [(layers, x) for layers in (make_layers(device='meta'), make_layers(dtype=torch.bfloat16), short)]
    with context():
        for (ours, plain), wrong in cases:
            with pytest.raises(Exception) as expected:
                plain(wrong)
            with pytest.raises(expected.type) as error:
                ours(wrong)
            assert str(error.value) == str(expected.value)


@with_and_without_gradients
def test_takes_what_pytorch_takes(context):
    """No pixels, no features, one bias for all, a sparse matrix."""
    with context():
        for shape, out_features in (((0, 9, 8, 24), 10), ((2, 0, 8, 24), 10), ((2, 9, 8, 24), 0), ((2, 9, 8, 0), 10)):
            ours, plain = make_layers(shape[-1], out_features)
            torch.testing.assert_close(ours(torch.ones(shape)), plain(torch.ones(shape)))
        ours, plain = make_layers()
        ours.bias = plain.bias = nn.Parameter(torch.ones(1))
        for x in (torch.ones(2, 9, 8, 24), torch.eye(24).to_sparse()):
            torch.testing.assert_close(ours(x), plain(x))


@with_and_without_gradients
def test_onednn_may_be_switched_off(context):
    (ours, _), x = make_layers(), torch.randn(2, 9, 8, 24)
    with torch.backends.mkldnn.flags(enabled=False), context():
        assert not {PRODUCT, CONVOLUTION} & set(operators(ours, x))


@needs_onednn
def test_threads_may_share_it():
    ours, plain = make_layers(64, 64)
    inputs, outputs = torch.randn(2, 300, 64), [None, None]

    def run(i):
        with torch.no_grad():
            for _ in range(50):
                outputs[i] = ours(inputs[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    torch.testing.assert_close(torch.stack(outputs), plain(inputs).detach(), rtol=1e-5, atol=1e-5)
