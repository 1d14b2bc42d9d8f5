"""Derivatives beyond the first backward pass, forward mode and torch.func: those of the specification."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.utils.checkpoint import checkpoint

from ops_dcnv3 import (
    DCNv3,
    ModulatedDeformRoIPoolPack,
    dcnv3,
    deform_ps_roi_pool,
    deform_roi_pool,
    ps_roi_pool,
    reference,
)

GENERATOR = torch.Generator()


def randn(*shape):
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def make_case(name, rois=2):
    """The operator and its specification as functions of the tensors that have a gradient, and these tensors."""
    GENERATOR.manual_seed(0)
    kind, _, variant = name.partition('/')
    if kind == 'dcnv3':
        options = dict(kernel_size=(3, 2), stride=(1, 2), padding=(1, 0), groups=2, offset_scale=1.5)
        if variant == 'remove_center':
            options = dict(kernel_size=3, groups=2, remove_center=True, softmax=True)
        options['softmax'] = options.get('softmax', variant == 'softmax')
        out, points = ((3, 2), 6) if variant != 'remove_center' else ((3, 4), 8)
        tensors = [randn(1, 3, 4, 4), randn(1, *out, 4 * points) * 1.5, randn(1, *out, 2 * points)]
        ours, theirs = dcnv3, reference.dcnv3
        if variant == 'slices':  # every second channel, and slices of one tensor
            tensors = [randn(1, 3, 4, 8), randn(1, *out, 6 * points)]
            split = lambda x, both: (x[..., ::2], both[..., : 4 * points], both[..., 4 * points :])  # noqa: E731
            return lambda *t: ours(*split(*t), **options), lambda *t: theirs(*split(*t), **options), tensors
        return lambda *t: ours(*t, **options), lambda *t: theirs(*t, **options), tensors
    count, rois = rois, torch.tensor([[1, 0.7, 1.2, 9.3, 6.1], [0, -3, 0.4, 5.2, 7.7]], dtype=torch.float64)[:rois]
    options = dict(output_size=(2, 1), spatial_scale=0.5, sampling_ratio=2 if variant == 'fixed' else 0)
    if kind == 'ps_roi_pool':
        tensors = [randn(2, 4, 4, 5)]
        return lambda x: ps_roi_pool(x, rois, **options), lambda x: reference.ps_roi_pool(x, rois, **options), tensors
    if kind == 'deform_ps_roi_pool':
        tensors = [randn(2, 4, 4, 5), randn(count, 4, 2, 1)]
        ours, theirs = deform_ps_roi_pool, reference.deform_ps_roi_pool
        return lambda x, o: ours(x, rois, o, **options), lambda x, o: theirs(x, rois, o, **options), tensors
    parts = [randn(2, 2, 4, 5), randn(count, 2, 2, 1), randn(count, 2, 1).sigmoid()]
    given = dict(all=(0, 1, 2), no_mask=(0, 1), no_offset=(0, 2), neither=(0,), fixed=(0, 1, 2))[variant]

    def call(op):
        def function(*tensors):
            input, offset, mask = (tensors[given.index(i)] if i in given else None for i in range(3))
            return op(input, rois, offset, mask=mask, **options)

        return function

    return call(deform_roi_pool), call(reference.deform_roi_pool), [parts[i] for i in given]


CASES = ['dcnv3/plain', 'dcnv3/softmax', 'dcnv3/remove_center', 'dcnv3/slices', 'ps_roi_pool', 'deform_ps_roi_pool']
CASES += [f'deform_roi_pool/{variant}' for variant in ('all', 'no_mask', 'no_offset', 'neither', 'fixed')]


@pytest.fixture(params=CASES)
def case(request, device):
    ours, theirs, tensors = make_case(request.param)
    if device.type != 'cpu':
        pytest.skip('the same Python on every device')
    return ours, theirs, tensors


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('name', ['dcnv3/softmax', 'dcnv3/slices', 'deform_ps_roi_pool', 'deform_roi_pool/all'])
def test_gradcheck_of_every_kind(name, device):
    if device.type != 'cpu':
        pytest.skip('the same Python on every device')
    ours, _, tensors = make_case(name, rois=1)
    leaves = [t.clone().requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(
        ours, leaves, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(ours, leaves, fast_mode=True)


def test_second_and_third_derivatives(case):
    def derivatives(function, through=lambda f, *t: f(*t)):
        leaves = [t.clone().requires_grad_() for t in case[2]]
        results, value = [], through(function, *leaves).sin().sum()
        for order in (1, 2, 3):
            found = torch.autograd.grad(value, leaves, create_graph=order < 3, allow_unused=True)
            found = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]
            results += [g.detach() for g in found]
            value = sum(g.sin().sum() for g in found)
        return results

    expected = derivatives(case[1])
    assert all(t.any() for t in expected)
    assert_same(derivatives(case[0]), expected)
    assert_same(derivatives(case[0], lambda f, *t: checkpoint(f, *t, use_reentrant=False)), expected)


def test_transforms(case):
    ours, theirs, tensors = case
    every = tuple(range(len(tensors)))
    tangents = tuple(randn(*t.shape) for t in tensors)
    two = [torch.stack([t, t.flip(-1)]) for t in tensors]

    def loss(function):
        return lambda *t: function(*t).sin().sum()

    for transform in (
        lambda f: grad(loss(f), every)(*tensors),
        lambda f: jacrev(f, every)(*tensors),
        lambda f: jacfwd(f, every)(*tensors),
        lambda f: jvp(f, tuple(tensors), tangents),
        lambda f: jvp(grad(loss(f), every), tuple(tensors), tangents),
        lambda f: grad(lambda *t: sum(g.sin().sum() for g in grad(loss(f), every)(*t)), every)(*tensors),
        lambda f: hessian(loss(f), 0)(*tensors),
        lambda f: jacrev(jacrev(loss(f), 0), len(tensors) - 1)(*tensors),
    ):
        assert_same(transform(ours), transform(theirs))
    assert_same(vmap(ours)(*two), torch.stack([theirs(*(t[i] for t in two)) for i in (0, 1)]))
    per_sample = vmap(grad(loss(ours), every))(*two)
    expected = [grad(loss(theirs), every)(*(t[i] for t in two)) for i in (0, 1)]
    assert_same(per_sample, tuple(torch.stack(g) for g in zip(*expected, strict=True)))
    # One of them mapped, over another dimension than the first; a map of maps.
    one = torch.stack([tensors[0], tensors[0].flip(-1)], dim=2)
    alone = vmap(ours, in_dims=(2, *[None] * (len(tensors) - 1)))(one, *tensors[1:])
    assert_same(alone, torch.stack([theirs(tensors[0].flip(-1) if i else tensors[0], *tensors[1:]) for i in (0, 1)]))
    nested = vmap(vmap(ours))(*(torch.stack([t, t + 0.25]) for t in two))
    assert_same(nested[1, 1], theirs(*(t[1] + 0.25 for t in two)))
    # The pull-back of a transform that has ended.
    pull = vjp(ours, *tensors)[1]
    grads = randn(3, *ours(*tensors).shape)
    assert_same(vmap(pull)(grads)[0][2], vjp(theirs, *tensors)[1](grads[2])[0])


def test_forward_mode_over_a_backward_pass_of_earlier(case):
    """The graph is made outside of the level, the gradient of the output is a dual tensor."""
    grad_output, tangent = randn(2, *case[0](*case[2]).shape)
    results = []
    for function in case[:2]:
        leaves = [t.clone().requires_grad_() for t in case[2]]
        output = function(*leaves)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(grad_output, tangent)
            found = torch.autograd.grad(output, leaves, dual)
            results.append([forward_ad.unpack_dual(g).tangent for g in found])
    assert_same(*results)


def test_forward_mode_without_gradients(case):
    ours, theirs, tensors = case
    tangents = [randn(*t.shape) for t in tensors]
    results = []
    for function in (ours, theirs):
        with torch.no_grad(), forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, tangent) for t, tangent in zip(tensors, tangents, strict=True)]
            results.append(forward_ad.unpack_dual(function(*duals)).tangent)
    assert_same(*results)


@pytest.mark.parametrize('op', [deform_roi_pool, deform_ps_roi_pool, ps_roi_pool])
def test_boxes_have_no_derivative(op):
    """Autograd has no gradient by them; what would be 0 without a word is an error."""
    rois = torch.tensor([[0, 1.0, 1, 9, 7]], dtype=torch.float64)
    GENERATOR.manual_seed(0)
    input = randn(1, 4, 6, 5).requires_grad_()
    offset = () if op is ps_roi_pool else (randn(1, 2, 2, 1),)
    call = lambda rois: op(input, rois, *offset, (2, 1)).sum()  # noqa: E731
    leaf = rois.clone().requires_grad_()
    call(leaf).backward()
    assert leaf.grad is None and input.grad.any()
    for transform in (grad(call), jacrev(call), jacfwd(call), lambda rois: jvp(call, (rois,), (rois,))):
        with pytest.raises(NotImplementedError, match='roi_pool: there is no derivative by rois; detach them'):
            transform(rois)


def test_boxes_are_vectorised():
    """Each entry has RoIs of its own, in images of its own; an image that does not exist is an error there too."""
    GENERATOR.manual_seed(0)
    input = randn(3, 2, 2, 6, 5)
    rois = torch.rand(3, 4, 5, generator=GENERATOR, dtype=torch.float64) * 6
    rois[..., 0] = torch.randint(0, 2, (3, 4), generator=GENERATOR)
    pool = lambda x, r: deform_roi_pool(x, r, None, (2, 1))  # noqa: E731
    assert_same(vmap(pool)(input, rois), torch.stack([pool(x, r) for x, r in zip(input, rois, strict=True)]))
    shared = vmap(pool, (None, 0))(input[0], rois.half().double())
    assert_same(shared, torch.stack([pool(input[0], r) for r in rois.half().double()]))
    for index in (-1, 2, float('nan')):
        rois[1, 2, 0] = index
        with pytest.raises(IndexError, match='image index'):
            vmap(pool)(input, rois)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    GENERATOR.manual_seed(0)
    tensors = [t.to(dtype) for t in (randn(1, 4, 5, 8), randn(1, 4, 5, 36), randn(1, 4, 5, 18))]

    def penalty(function, tensors):
        leaves = [t.clone().requires_grad_() for t in tensors]
        first = torch.autograd.grad(function(*leaves, groups=2).float().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.float().square().sum() for g in first), leaves)

    actual, expected = penalty(dcnv3, tensors), penalty(reference.dcnv3, [t.double() for t in tensors])
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        assert (a - e).abs().max() <= (1e-4 if dtype == torch.float32 else 0.05) * e.abs().max()


class TestLayer:
    def make(self, **options):
        torch.manual_seed(0)
        layer = DCNv3(channels=8, group=2, **options).double()
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return layer, torch.randn(2, 5, 4, 8, dtype=torch.float64)

    @pytest.mark.parametrize('frozen', [False, True])
    @pytest.mark.parametrize('options', [{}, dict(center_feature_scale=True, remove_center=True)])
    def test_forward_mode_is_the_difference_quotient(self, options, frozen):
        layer, x = self.make(**options)
        layer.requires_grad_(not frozen)
        direction = torch.randn_like(x)
        _, tangent = jvp(layer, (x,), (direction,))
        quotient = (layer(x + 1e-6 * direction) - layer(x - 1e-6 * direction)) / 2e-6
        torch.testing.assert_close(tangent, quotient, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            torch.testing.assert_close(jvp(layer, (x,), (direction,))[1], quotient, rtol=1e-5, atol=1e-6)

    def test_gradient_penalty(self):
        layer, x = self.make()
        assert torch.autograd.gradgradcheck(layer, (x[:1, :3].requires_grad_(),), fast_mode=True)
        first = torch.autograd.grad(layer(x.requires_grad_()).sum(), x, create_graph=True)[0]
        ((first.norm() - 1) ** 2).backward()
        has_none = {name for name, p in layer.named_parameters() if p.grad is None}
        assert has_none == {'output_proj.bias'}  # on which the first gradient does not depend

    def test_ensembles_and_gradients_of_every_sample(self):
        layer, x = self.make()
        layers = [layer, copy.deepcopy(layer)]
        torch.nn.init.normal_(layers[1].offset.weight, std=0.5)
        parameters, buffers = stack_module_state(layers)
        call = lambda p, b, x: functional_call(layer, (p, b), (x,))  # noqa: E731
        outputs = vmap(call, (0, 0, None))(parameters, buffers, x)
        assert_same(outputs, torch.stack([each(x) for each in layers]))
        loss = lambda p, x: functional_call(layer, p, (x[None],)).sin().sum()  # noqa: E731
        own = {name: p.detach() for name, p in layer.named_parameters()}
        per_sample = vmap(grad(loss), (None, 0))(own, x)
        layer(x).sin().sum().backward()
        for name, parameter in layer.named_parameters():
            assert_same(per_sample[name].sum(0), parameter.grad)

    def test_roi_pack(self):
        torch.manual_seed(0)
        pack = ModulatedDeformRoIPoolPack((2, 1), 3, 4).double()
        for parameter in pack.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        rois = torch.tensor([[0, 0.7, 1.2, 4.3, 4.1]], dtype=torch.float64)
        x = torch.randn(1, 3, 5, 6, dtype=torch.float64, requires_grad=True)
        call = lambda x: pack(x, rois)  # noqa: E731
        assert torch.autograd.gradcheck(call, x, check_forward_ad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, x, fast_mode=True)


def test_the_operators_of_inference_have_derivatives_too():
    """Where the layers do not call them, but others may."""
    GENERATOR.manual_seed(0)
    x, weight, bias = randn(2, 4, 3), randn(5, 3), randn(5)
    linear = torch.ops.ops_dcnv3.linear
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(linear, leaves, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(linear, leaves, fast_mode=True)
    leaves = [randn(1, 3, 4, 2), randn(2, 1, 3, 3), randn(2), randn(2), randn(2)]
    leaves = [t.requires_grad_() for t in leaves]

    def fused(*tensors):
        return torch.ops.ops_dcnv3.depthwise_norm_gelu(*tensors, 0.1, (1, 1), (1, 1))

    assert torch.autograd.gradcheck(fused, leaves, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(fused, leaves, fast_mode=True)
    x, *parameters = leaves
    expected = F.conv2d(x.permute(0, 3, 1, 2), *parameters[:2], padding=1, groups=2).permute(0, 2, 3, 1)
    expected = F.gelu(F.layer_norm(expected, (2,), *parameters[2:], 0.1))
    assert_same(fused(*leaves), expected)


def test_an_ordinary_call_keeps_no_more_than_its_arguments():
    tensors = [torch.randn(1, 4, 5, n, requires_grad=True) for n in (8, 36, 18)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = dcnv3(*tensors, groups=2)
        output.sum().backward()
    assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in tensors]
