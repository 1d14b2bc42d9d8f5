"""Undocumented PyTorch: the probes hold on the versions that are tested, and every fallback gives the same results."""

import platform
import warnings

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import grad, jacrev, jvp, vmap

from ops_dcnv3 import DCNv3, Linear, _compat, dcnv3, deform_ps_roi_pool, deform_roi_pool, ps_roi_pool
from ops_dcnv3.checks import autocast_dtype, compiled_devices

PROBES = [name for name in vars(_compat) if name.startswith('HAS_')]


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def results() -> dict:
    """What the package computes where it asks for any of the probed, by name."""
    torch.manual_seed(0)
    layer, linear = DCNv3(channels=8, group=2).double(), Linear(8, 6).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    found = {'layer': layer(x).detach(), 'linear': linear(x).detach()}
    with torch.no_grad():
        found |= {'layer, inference': layer(x), 'linear, inference': linear(x)}
    rois = torch.tensor([[0, 0.7, 1.2, 5.3, 4.1]], dtype=torch.float64)
    calls = {
        'dcnv3': (
            lambda *t: dcnv3(*t, kernel_size=(2, 1), groups=2),
            randn(1, 3, 4, 4), randn(1, 4, 6, 8), randn(1, 4, 6, 4),
        ),
        'deform': (
            lambda *t: deform_roi_pool(t[0], rois, t[1], (2, 1), mask=t[2]),
            randn(1, 2, 4, 5), randn(1, 2, 2, 1), randn(1, 2, 1),
        ),
        'ps': (lambda t: ps_roi_pool(t, rois, (2, 1)), randn(1, 4, 4, 5)),
        'deform ps': (lambda *t: deform_ps_roi_pool(t[0], rois, t[1], (2, 1)), randn(1, 4, 4, 5), randn(1, 4, 2, 1)),
    }  # fmt: skip
    for name, (function, *tensors) in calls.items():
        loss = lambda *t, f=function: f(*t).sin().sum()  # noqa: E731
        every, tangents = tuple(range(len(tensors))), tuple(t.flip(-1) for t in tensors)
        leaves = [t.clone().requires_grad_() for t in tensors]
        first = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
        found[f'{name}, gradients'] = [t.detach() for t in first]
        found[f'{name}, second'] = torch.autograd.grad(sum(g.sin().sum() for g in first), leaves)
        found[f'{name}, once'] = torch.autograd.grad(loss(*leaves), leaves)
        found[f'{name}, func.grad'] = grad(loss, every)(*tensors)
        found[f'{name}, vmap'] = vmap(function)(*(torch.stack([t, t.flip(-1)]) for t in tensors))
        found[f'{name}, jvp'] = jvp(function, tuple(tensors), tangents)
        found[f'{name}, jvp of grad'] = jvp(grad(loss, every), tuple(tensors), tangents)
        found[f'{name}, jacrev'] = jacrev(function, every)(*tensors)
        with torch.no_grad(), forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, tangent) for t, tangent in zip(tensors, tangents, strict=True)]
            found[f'{name}, forward mode'] = forward_ad.unpack_dual(function(*duals)).tangent
    return found


@pytest.fixture(scope='module')
def expected():
    return results()


def test_the_probes_hold():
    assert len(PROBES) == 8
    assert [name for name in PROBES if not getattr(_compat, name)] == []


@pytest.mark.parametrize('probe', [*PROBES, 'all'])
def test_fallbacks_give_the_same(probe, expected, monkeypatch):
    for name in PROBES if probe == 'all' else [probe]:
        monkeypatch.setattr(_compat, name, False)
    found = results()
    assert list(found) == list(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f'{n}: {m}')


def test_fallbacks_assume_what_they_cannot_know(monkeypatch):
    module = nn.Linear(2, 2)
    plain = torch.ones(2)
    assert not _compat.is_transformed() and not _compat.is_forward_mode((plain, None)) and not _compat.is_in_mode()
    assert not _compat.has_hooks(module) and not _compat.has_global_hooks()
    for name in PROBES:
        monkeypatch.setattr(_compat, name, False)
    assert _compat.is_transformed() and _compat.is_forward_mode((plain, None)) and _compat.is_in_mode()
    assert _compat.has_hooks(module) and _compat.has_global_hooks()
    monkeypatch.setattr(_compat, 'HAS_TRANSFORM_LEVEL', True)
    assert not _compat.is_forward_mode((plain, None))
    with forward_ad.dual_level():
        assert _compat.is_forward_mode((None, forward_ad.make_dual(plain, plain)))


@pytest.mark.parametrize('known', [True, False])
def test_autocast_of_any_device(known, monkeypatch):
    monkeypatch.setattr(_compat, 'HAS_AUTOCAST_AVAILABLE', known)
    assert autocast_dtype(torch.ones(2, device='meta')) is None
    with torch.autocast('cpu', torch.bfloat16):
        assert autocast_dtype(torch.ones(2)) == torch.bfloat16


@pytest.mark.parametrize(
    'path, arguments',
    [
        ('_C._functorch.no_such_name', ()),
        ('_C.no_such_module.name', ()),
        ('amp.is_autocast_available', ()),  # another number of arguments
        ('get_num_threads', ()),  # another kind of result
        ('__version__', ()),  # no function
    ],
)
def test_a_probe_of_what_has_changed_fails(path, arguments):
    assert not _compat._works(path, bool, *arguments)


def test_the_product_of_onednn_is_called_only_with_its_signature():
    has_product = torch.ops.ops_dcnv3.has_product
    signature = '(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y'
    changed = {
        'argument': signature.replace(', str? algorithm', ''),
        'type': signature.replace('str attr', 'int attr'),
        'optional': signature.replace('Tensor? B', 'Tensor B'),
        'result': signature.replace('Tensor Y', '(Tensor, Tensor)'),
    }
    library = torch.library.Library('ops_dcnv3_products', 'DEF')
    library.define(f'same{signature}')
    for name, schema in changed.items():
        library.define(f'{name}{schema}')
    assert has_product('ops_dcnv3_products::same')
    assert not any(has_product(f'ops_dcnv3_products::{name}') for name in (*changed, 'none'))
    if platform.machine() in ('x86_64', 'AMD64') and torch.backends.mkldnn.is_available():
        assert has_product('mkldnn::_linear_pointwise')
    library._destroy()


def test_the_library_says_what_it_has_kernels_for():
    assert (
        {'cpu', 'meta'} <= compiled_devices('dcnv3') == compiled_devices('deform_roi_pool') <= {'cpu', 'cuda', 'meta'}
    )
    assert not torch.ops.ops_dcnv3.has_kernel('linear', 'CUDA')
    with pytest.raises(RuntimeError, match='no_such_operator'):
        torch.ops.ops_dcnv3.has_kernel('no_such_operator', 'CPU')


def test_own_warnings_of_deprecation_are_errors():
    for category in (DeprecationWarning, FutureWarning):
        with pytest.raises(category):
            warnings.warn_explicit('old', category, 'dcnv3.py', 1, module='ops_dcnv3.dcnv3')
        warnings.warn_explicit('old', category, 'other.py', 1, module='other.module')
