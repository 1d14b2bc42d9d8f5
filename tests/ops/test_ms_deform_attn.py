import inspect
import math

import pytest
import torch
from torch.nn import functional as F

from ops_dcnv3 import ms_deform_attn, reference

NAMES = ('value', 'spatial_shapes', 'level_start_index', 'sampling_locations', 'attention_weights')
LEAVES = ('value', 'sampling_locations', 'attention_weights')
# Rounding of a result, by the largest number of its tensor.
ROUNDING = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def make_inputs(
    batch=2, shapes=((5, 7), (3, 4), (1, 2)), queries=11, heads=3, channels=8, points=4, dtype=torch.float64,
    device='cpu', spread=1.2, seed=0,
):  # fmt: skip
    """Arguments of one call. Locations reach beyond the maps on every side; rounded to 1/256, so that they are the same
    in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    sizes = [height * width for height, width in shapes]
    shape = (batch, queries, heads, len(shapes), points)
    locations = ((torch.rand(*shape, 2, generator=generator).double() - 0.5) * spread + 0.5) * 256
    weights = make(batch, queries, heads, len(shapes) * points).softmax(-1).reshape(shape)
    tensors = (
        make(batch, sum(sizes), heads, channels).to(dtype),
        torch.tensor(shapes),
        torch.tensor([sum(sizes[:i]) for i in range(len(sizes))]),
        (locations.round() / 256).to(torch.promote_types(dtype, torch.float32)),
        weights.to(dtype),
    )
    return {name: tensor.to(device) for name, tensor in zip(NAMES, tensors, strict=True)}


def run(op, tensors):
    """Output and gradients, for one fixed gradient of the output."""
    tensors = {key: t.detach().requires_grad_(key in LEAVES) for key, t in tensors.items()}
    output = op(**tensors)
    generator = torch.Generator().manual_seed(1)
    grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    gradients = torch.autograd.grad(output, [tensors[key] for key in LEAVES], grad_output)
    return {'output': output.detach(), **dict(zip(LEAVES, gradients, strict=True))}


def assert_same(actual, expected, tolerance):
    for name, a in actual.items():
        e = expected[name].to(a.device)
        assert a.shape == e.shape, name
        scale = max(1, e.nan_to_num().abs().max()) if e.numel() else 1
        torch.testing.assert_close(
            a.double(), e.double(), rtol=0, atol=tolerance * scale, equal_nan=True, msg=lambda m, n=name: f'{n}: {m}'
        )


def by_grid_sample(value, spatial_shapes, level_start_index, sampling_locations, attention_weights):
    """As Deformable DETR and mmcv compute it in PyTorch: one call of grid_sample per level."""
    batch, _, heads, channels = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    sampled = []
    for level, ((height, width), start) in enumerate(
        zip(spatial_shapes.tolist(), level_start_index.tolist(), strict=True)
    ):
        maps = value[:, start : start + height * width].permute(0, 2, 3, 1).reshape(-1, channels, height, width)
        grid = 2 * sampling_locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        sampled.append(F.grid_sample(maps, grid, align_corners=False))
    weights = attention_weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    output = (torch.stack(sampled, -2).reshape(batch * heads, channels, queries, -1) * weights).sum(-1)
    assert weights.shape[-1] == points * len(sampled)
    return output.reshape(batch, heads * channels, queries).transpose(1, 2)


def test_by_hand(device):
    """One head of one channel, two levels: a map of 2 x 3 and one of 1 x 2.

    level 0:  10 20 30    level 1:  5 7
              40 50 60
    """
    value = torch.tensor([10.0, 20, 30, 40, 50, 60, 5, 7], device=device).reshape(1, 8, 1, 1)
    locations = torch.tensor(
        [
            [[0.5, 0.25], [0.5, 0.5]],  # the centre of the pixel 20: 20; between 20 and 50: 35
            [[0.5, 0.5], [0.0, 0.5]],  # between 5 and 7: 6; on the left border, half of 5: 2.5
        ],
        device=device,
    ).reshape(1, 1, 1, 2, 2, 2)
    weights = torch.tensor([[0.5, 0.25], [2.0, 4.0]], device=device).reshape(1, 1, 1, 2, 2)
    shapes, starts = torch.tensor([[2, 3], [1, 2]], device=device), torch.tensor([0, 6], device=device)
    output = ms_deform_attn(value, shapes, starts, locations, weights)
    assert output.tolist() == [[[0.5 * 20 + 0.25 * 35 + 2 * 6 + 4 * 2.5]]]


@pytest.mark.parametrize('dtype', ROUNDING)
@pytest.mark.parametrize('channels', [1, 5, 8, 16, 32, 33, 64])
def test_against_the_reference(channels, dtype, device):
    inputs = make_inputs(channels=channels, dtype=dtype, device=device)
    exact = {key: t.double() if t.is_floating_point() else t for key, t in inputs.items()}
    assert_same(run(ms_deform_attn, inputs), run(reference.ms_deform_attn, exact), ROUNDING[dtype])


@pytest.mark.parametrize(
    'options',
    [
        dict(queries=1, heads=1, points=1, shapes=((1, 1),)),
        dict(queries=300, heads=8, channels=32),
        dict(points=70, heads=5, queries=3),  # more points than a tile has room for
        dict(points=3, queries=50),  # a vector reaches beyond the last point of a tile
        dict(spread=0.5, queries=64, heads=8, channels=32),  # nothing near a border of the first level
        dict(spread=1000.0),
        dict(batch=5, queries=2),
    ],
)
def test_any_size(options, device):
    inputs = make_inputs(**options, device=device)
    expected = run(reference.ms_deform_attn, inputs)
    assert_same(run(ms_deform_attn, inputs), expected, 1e-12)
    if options.get('spread') != 1000.0:
        assert all(t.abs().sum() > 0 for t in expected.values())


@pytest.mark.parametrize('op', [ms_deform_attn, reference.ms_deform_attn], ids=['compiled', 'reference'])
def test_it_is_what_grid_sample_gives(op, device):
    inputs = make_inputs(device=device)
    assert_same(run(op, inputs), run(by_grid_sample, inputs), 1e-10)


@pytest.mark.parametrize('options', [dict(batch=0), dict(queries=0)])
def test_empty(options, device):
    inputs = make_inputs(**options, device=device)
    results = run(ms_deform_attn, inputs)
    assert results['output'].shape == (inputs['value'].shape[0], inputs['sampling_locations'].shape[1], 24)
    assert all(results[key].shape == inputs[key].shape and not results[key].any() for key in LEAVES)


def test_maps_in_any_order_with_gaps(device):
    inputs = make_inputs(device=device)
    expected = run(ms_deform_attn, inputs)
    value, gap = inputs['value'], inputs['value'].new_full((2, 3, 3, 8), math.nan)
    maps = value.split([35, 12, 2], dim=1)
    inputs['value'] = torch.cat([gap, maps[1], maps[0], gap, maps[2]], 1)
    inputs['level_start_index'] = torch.tensor([15, 3, 53], dtype=torch.int32, device=device)
    inputs['spatial_shapes'] = inputs['spatial_shapes'].int()
    actual = run(ms_deform_attn, inputs)
    parts = actual['value'].split([3, 12, 35, 3, 2], dim=1)
    assert not parts[0].any() and not parts[3].any()
    actual['value'] = torch.cat([parts[2], parts[1], parts[4]], 1)
    assert_same(actual, expected, 0)


def test_strides(device):
    inputs = make_inputs(device=device)
    expected = run(ms_deform_attn, inputs)
    turned = {
        key: t.flip(0).transpose(0, -1).contiguous().transpose(0, -1).flip(0) if key in LEAVES else t
        for key, t in inputs.items()
    }
    assert not turned['value'].is_contiguous()
    assert_same(run(ms_deform_attn, turned), expected, 0)


@pytest.mark.parametrize('far', [math.inf, -math.inf, 1e30, math.nan])
def test_locations_nowhere(far, device):
    inputs = make_inputs(device=device, dtype=torch.float32)
    inputs['sampling_locations'][1, 4, 2, 0, 1, 0] = far
    actual = run(ms_deform_attn, inputs)
    assert_same(actual, run(reference.ms_deform_attn, inputs), 2e-6)
    head = actual['output'].unflatten(2, (3, 8))
    assert head[1, 4, 2].isnan().all() == math.isnan(far)
    assert head.isnan().sum() == (8 if math.isnan(far) else 0)


def test_what_lies_outside_is_not_read(device):
    """0 times NaN would be NaN: a point outside a map must not touch the next one."""
    inputs = make_inputs(device=device, shapes=((4, 6), (4, 6)), spread=0.0)  # every point in the middle
    inputs['value'][:, 24:] = math.nan
    inputs['sampling_locations'][:, :, :, 1] = -0.5
    assert ms_deform_attn(**inputs).isfinite().all()


def test_results_do_not_depend_on_threads():
    inputs = make_inputs(queries=70, heads=8, channels=32, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 5, 16):
            torch.set_num_threads(threads)
            results.append(run(ms_deform_attn, inputs))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(result[key], results[0][key]) for key in result)


class TestPyTorch:
    def test_gradcheck(self, device):
        inputs = make_inputs(batch=1, queries=3, heads=2, channels=3, points=2, shapes=((3, 4), (2, 2)), device=device)
        leaves = [inputs.pop(key).requires_grad_() for key in LEAVES]
        assert torch.autograd.gradcheck(
            lambda *t: ms_deform_attn(**inputs, **dict(zip(LEAVES, t, strict=True))), leaves
        )

    def test_second_order_and_forward_mode(self, device):
        inputs = make_inputs(batch=1, queries=2, heads=1, channels=2, points=2, shapes=((3, 4),), device=device)
        leaves = [inputs.pop(key).requires_grad_() for key in LEAVES]
        call = lambda *t: ms_deform_attn(**inputs, **dict(zip(LEAVES, t, strict=True)))  # noqa: E731
        assert torch.autograd.gradgradcheck(call, leaves)
        assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True, check_backward_ad=False)

    def test_vmap(self, device):
        inputs = make_inputs(batch=6, device=device)
        batched = [t.unflatten(0, (3, 2)) if key in LEAVES else t for key, t in inputs.items()]
        output = torch.func.vmap(ms_deform_attn, (0, None, None, 0, 0))(*batched)
        assert torch.equal(output.flatten(0, 1), ms_deform_attn(**inputs))
        batched[1] = torch.stack([inputs['spatial_shapes'], inputs['spatial_shapes'].flip(1), inputs['spatial_shapes']])
        with pytest.raises(ValueError, match='all batches must have the same levels'):
            torch.func.vmap(ms_deform_attn, (0, 0, None, 0, 0))(*batched)

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_opcheck(self, dtype, device):
        inputs = make_inputs(dtype=dtype, device=device)
        operators = torch.ops.ops_dcnv3.ms_deform_attn.default, torch.ops.ops_dcnv3.ms_deform_attn_backward.default
        leaves = [t.clone().requires_grad_(key in LEAVES) for key, t in inputs.items()]
        torch.library.opcheck(operators[0], tuple(leaves))
        grad_output = torch.randn_like(ms_deform_attn(**inputs))
        for wanted in ([True, True, True], [True, False, False], [False, True, False], [False, False, True]):
            torch.library.opcheck(operators[1], (grad_output, *inputs.values(), wanted))

    def test_only_the_gradients_that_are_asked_for(self, device):
        inputs = make_inputs(device=device)
        grad_output = torch.randn_like(ms_deform_attn(**inputs))
        backward = torch.ops.ops_dcnv3.ms_deform_attn_backward
        everything = backward(grad_output, *inputs.values(), [True] * 3)
        for i in range(3):
            for wanted in ([j == i for j in range(3)], [j != i for j in range(3)]):
                some = backward(grad_output, *inputs.values(), wanted)
                for want, a, b in zip(wanted, some, everything, strict=True):
                    assert_same({'gradient': a}, {'gradient': b if want else b.new_empty(0)}, 1e-13)

    def test_compiles_without_graph_break(self, device):
        inputs = make_inputs(dtype=torch.float32, device=device)
        compiled = torch.compile(lambda **t: ms_deform_attn(**t), fullgraph=True, backend='aot_eager')
        assert_same(run(compiled, inputs), run(ms_deform_attn, inputs), 0)

    def test_autocast_leaves_the_locations_alone(self, device):
        inputs = make_inputs(dtype=torch.float32, device=device)
        cast = {key: t.bfloat16() if key in ('value', 'attention_weights') else t for key, t in inputs.items()}
        with torch.autocast(device.type, torch.bfloat16):
            output = ms_deform_attn(**inputs)
        assert output.dtype == torch.bfloat16 and torch.equal(output, ms_deform_attn(**cast))

    def test_meta_device_gives_the_shape(self):
        output = ms_deform_attn(**{key: t.to('meta') for key, t in make_inputs().items()})
        assert output.shape == (2, 11, 24) and output.device.type == 'meta'

    def test_schemas_have_the_names_of_the_arguments(self):
        backward = torch.ops.ops_dcnv3.ms_deform_attn_backward.default
        assert tuple(inspect.signature(ms_deform_attn).parameters) == NAMES
        assert tuple(a.name for a in torch.ops.ops_dcnv3.ms_deform_attn.default._schema.arguments) == NAMES
        assert tuple(a.name for a in backward._schema.arguments) == ('grad_output', *NAMES, 'output_mask')


class TestErrors:
    @pytest.mark.parametrize(
        'change, error, message',
        [
            (dict(value=None), TypeError, 'value must be a tensor, got NoneType'),
            (
                dict(value=torch.ones(2, 49, 24)),
                ValueError,
                r'value must be \(N, S, heads, D\).* got shape \(2, 49, 24\)',
            ),
            (dict(spatial_shapes=[[5, 7]]), TypeError, 'spatial_shapes must be a tensor, got list'),
            (
                dict(spatial_shapes=torch.ones(3, 2)),
                TypeError,
                'spatial_shapes must be of an integer dtype, got .*float32',
            ),
            (
                dict(spatial_shapes=torch.ones(3, 3).long()),
                ValueError,
                r'\(levels, 2\) = \(3, 2\).* got shape \(3, 3\)',
            ),
            (
                dict(level_start_index=torch.tensor([0, 35])),
                ValueError,
                r'level_start_index.* = \(3,\).* got shape \(2,\)',
            ),
            (dict(level_start_index=torch.tensor([0, 35, 48])), ValueError, 'level 2 must lie inside the 49 pixels'),
            (dict(level_start_index=torch.tensor([-1, 35, 47])), ValueError, 'level 0 .* the first pixel -1'),
            (
                dict(spatial_shapes=torch.tensor([[5, 7], [3, 4], [0, 2]])),
                ValueError,
                'level 2 must lie .* a height of 0, a width of 2 and the first pixel 47',
            ),
            (
                dict(spatial_shapes=torch.tensor([[5, 7], [2**62, 2**62], [1, 2]])),
                ValueError,
                'level 1 must lie .* a height of 4611686018427387904',
            ),
            (dict(sampling_locations=torch.ones(2, 11, 3, 3, 4)), ValueError, 'levels, points, 2.* got shape'),
            (
                dict(sampling_locations=torch.ones(2, 11, 3, 3, 0, 2).double()),
                ValueError,
                r'levels and points at least 1, got shape \(2, 11, 3, 3, 0, 2\)',
            ),
            (
                dict(sampling_locations=torch.ones(2, 11, 4, 3, 4, 2).double()),
                ValueError,
                r'= \(2, 11, 3, 3, 4, 2\).* got shape \(2, 11, 4, 3, 4, 2\)',
            ),
            (
                dict(attention_weights=torch.ones(2, 11, 3, 3, 5).double()),
                ValueError,
                r'= \(2, 11, 3, 3, 4\).* got shape',
            ),
            (
                dict(attention_weights=torch.ones(2, 11, 3, 3, 4)),
                TypeError,
                'the dtype of value, got .*float32.*float64',
            ),
            (
                dict(sampling_locations=torch.ones(2, 11, 3, 3, 4, 2).int()),
                TypeError,
                'sampling_locations must be float32',
            ),
        ],
    )
    def test_arguments(self, change, error, message):
        with pytest.raises(error, match=f'ms_deform_attn: .*{message}'):
            ms_deform_attn(**(make_inputs() | change))

    def test_devices(self):
        inputs = make_inputs()
        inputs['level_start_index'] = inputs['level_start_index'].to('meta')
        with pytest.raises(ValueError, match='level_start_index must be on the device of value, cpu, got meta'):
            ms_deform_attn(**inputs)
        inputs = make_inputs()
        inputs['sampling_locations'] = inputs['sampling_locations'].to('meta')
        with pytest.raises(ValueError, match='sampling_locations must be on the device of value, cpu, got meta'):
            ms_deform_attn(**inputs)
