import inspect
import math

import pytest
import torch
from property_tests import given, settings, st

from ops_dcnv3 import (
    DeformPSRoIPoolPack,
    DeformRoIPool,
    DeformRoIPoolPack,
    ModulatedDeformRoIPool,
    ModulatedDeformRoIPoolPack,
    PSRoIPool,
    deform_ps_roi_pool,
    deform_roi_pool,
    ps_roi_pool,
    reference,
)

# Rounding of a result, by the largest number of its tensor.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
OPERATORS = dict(deform_roi_pool=deform_roi_pool, ps_roi_pool=ps_roi_pool, deform_ps_roi_pool=deform_ps_roi_pool)


def make_inputs(
    name='deform_roi_pool',
    batch=3,
    size=(9, 13),
    rois=6,
    channels=4,
    classes=2,
    output_size=(3, 2),
    spatial_scale=0.4,
    sampling_ratio=0,
    gamma=0.3,
    dtype=torch.float64,
    device='cpu',
    spread=1.0,
    seed=0,
):
    """Arguments of one call: tensors by name, then options. Boxes reach beyond the image on every side."""
    generator = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    deform, sensitive = 'deform' in name, 'ps' in name
    channels *= classes if name == 'deform_ps_roi_pool' else 1
    middle = make(rois, 2) * torch.tensor([size[1], size[0]]) / spatial_scale / 3 + 0.5 * torch.tensor([20.0, 14.0])
    half = make(rois, 2).abs() * torch.tensor([9.0, 6.0]) + 1
    image = torch.randint(0, max(1, batch), (rois, 1), generator=generator).double()
    tensors = dict(
        input=make(batch, channels * (math.prod(output_size) if sensitive else 1), *size),
        rois=torch.cat([image, middle - half, middle + half], dim=1).float().double(),
    )
    if deform:
        tensors['offset'] = make(rois, 2 * (classes if sensitive else 1), *output_size) * spread
    if name == 'deform_roi_pool':
        tensors['mask'] = make(rois, *output_size).sigmoid()
    tensors = {
        key: t.to(device, torch.promote_types(dtype, torch.float32) if key == 'rois' else dtype)
        for key, t in tensors.items()
    }
    options = dict(output_size=output_size, spatial_scale=spatial_scale, sampling_ratio=sampling_ratio)
    return tensors, options | (dict(gamma=gamma) if deform else {})


def run(op, tensors, options, grad_seed=1):
    """Output and the gradients by all but the boxes, for one fixed gradient of the output."""
    tensors = {key: t.detach().requires_grad_(key != 'rois') for key, t in tensors.items()}
    output = op(**tensors, **options)
    generator = torch.Generator().manual_seed(grad_seed)
    grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    leaves = {key: t for key, t in tensors.items() if key != 'rois'}
    gradients = torch.autograd.grad(output, [*leaves.values()], grad_output)
    return {'output': output.detach(), **dict(zip(leaves, gradients, strict=True))}


def assert_same(actual, expected, tolerance):
    assert list(actual) == list(expected)
    for name, a in actual.items():
        e = expected[name]
        torch.testing.assert_close(a.to(e), e, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f'{n}: {m}')


def random_boxes(batch, count, image_size, dtype, seed):
    """Boxes of up to the size of the image, in part outside."""
    generator = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(shape, generator=generator, dtype=dtype)  # noqa: E731
    size = torch.tensor([image_size[1], image_size[0]], dtype=dtype)
    middle, half = rand(count, 2) * size * 1.3 - 0.15 * size, rand(count, 2) * size / 2 + 0.01
    index = torch.randint(0, batch, (count, 1), generator=generator).to(dtype)
    return torch.cat([index, middle - half, middle + half], dim=1)


class TestByHand:
    """An image of one channel whose value at (x, y) is 10 y + x: averaged over a bin, it is the value at its middle."""

    ramp = torch.arange(6.0)[:, None] * 10 + torch.arange(8.0)

    def pool(self, device, box, offset=None, mask=None, **options):
        tensors = [t if t is None else torch.as_tensor(t, device=device) for t in (offset, mask)]
        options = dict(output_size=(1, 2), sampling_ratio=2) | options
        rois = torch.tensor([[0.0, *box]], device=device)
        return deform_roi_pool(self.ramp[None, None].to(device), rois, tensors[0], mask=tensors[1], **options)[
            0, 0
        ].tolist()

    def test_middle_of_the_bins(self, device):
        # The box from (1, 1) to (5, 4) is, in centres of pixels, from (0.5, 0.5) to (4.5, 3.5). The middles of its bins
        # are x = 1.5 and 3.5, y = 2: 20 + 1.5 and 20 + 3.5.
        assert self.pool(device, (1, 1, 5, 4)) == [[21.5, 23.5]]

    def test_spatial_scale_is_of_the_box(self, device):
        assert self.pool(device, (4, 4, 20, 16), spatial_scale=0.25) == [[21.5, 23.5]]

    def test_offset_is_a_part_of_the_box_and_x_comes_first(self, device):
        # The left bin moves by 0.5 * 0.5 * 4 = 1 pixel along x, the right one by 0.5 * -0.5 * 3 = -0.75 along y.
        offset = [[[[0.5, 0.0]], [[0.0, -0.5]]]]
        assert self.pool(device, (1, 1, 5, 4), offset=offset, gamma=0.5) == [[22.5, 16.0]]

    def test_modulation_weighs_a_bin(self, device):
        assert self.pool(device, (1, 1, 5, 4), mask=[[[0.5, 2.0]]]) == [[10.75, 47.0]]

    def test_adaptive_samples_are_as_many_as_pixels(self, device):
        # Only the pixel (3, 2) is 1. The bin from x = 2.5 to 4.5, y = 0.5 to 3.5, samples x = 3, 4 and y = 1, 2, 3.
        image = torch.zeros(1, 1, 6, 8, device=device)
        image[0, 0, 2, 3] = 1
        rois = torch.tensor([[0.0, 1, 1, 5, 4]], device=device)
        output = deform_roi_pool(image, rois, None, (1, 2))
        assert output.tolist() == [[[[0, pytest.approx(1 / 6)]]]]

    def test_border_pixels_reach_a_pixel_outside(self, device):
        # Samples at y = 2 and x = -1.5, -0.5, 0.5, 1.5: nothing, the border, between 20 and 21, between 21 and 22.
        assert self.pool(device, (-1.5, 2, 2.5, 3), output_size=(1, 4), sampling_ratio=1) == [[0, 20, 20.5, 21.5]]
        # The last column is x = 7: its value also at 8, but nothing at 9.
        assert self.pool(device, (7, 2, 10, 3), output_size=(1, 3), sampling_ratio=1) == [[27, 27, 0]]

    def test_a_bin_beyond_the_border_does_not_gain_by_moving(self, device):
        # The value rises by 1 per pixel of x, but not from the last column, x = 7, on, nor up to x = 0 (0 to 1 counts).
        # Samples at x = 6, 7, at x = -1, 0, at x = 1, 2; y = 1, 2. An offset of 1 moves by half of the size, a pixel.
        boxes = [[0, 6, 1, 8, 3], [0, -1, 1, 1, 3], [0, 1, 1, 3, 3]]
        rois = torch.tensor(boxes, dtype=torch.float32, device=device)
        offset = torch.zeros(3, 2, 1, 1, device=device, requires_grad=True)
        deform_roi_pool(self.ramp[None, None].to(device), rois, offset, 1, gamma=0.5).sum().backward()
        assert offset.grad.flatten(1).tolist() == [[0.5, 10], [0.5, 10], [1, 10]]

    def test_position_sensitive_bins_read_maps_of_their_own(self, device):
        # Channel 1, ..., 12 everywhere: bin (i, j) of output d reads (d * 3 + i) * 2 + j.
        input = torch.arange(12.0, device=device)[:, None, None].expand(12, 5, 7)[None]
        rois = torch.tensor([[0.0, 1, 1, 5, 4]], device=device)
        assert ps_roi_pool(input, rois, (3, 2)).tolist() == [[[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]]]

    def test_classes_of_offsets(self, device):
        # Two classes of one output: the first moves along x by 0.1 * 2.5 * 4 = 1, the second along y by -1.
        rois = torch.tensor([[0.0, 1, 1, 5, 4]], device=device)
        offset = torch.tensor([2.5, 0, 0, -10 / 3], device=device).reshape(1, 4, 1, 1)
        input = self.ramp.to(device).expand(1, 2, 6, 8)
        output = deform_ps_roi_pool(input, rois, offset, 1).flatten().tolist()
        assert output == pytest.approx([23.5, 12.5])


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('output_size', [(3, 2), (1, 1), (7, 7)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
class TestAgainstTorchvision:
    """At zero offset. The maps are small, so that positions in float32 are precise enough for 1e-5."""

    def check(self, ours, theirs, input, layout, dtype):
        input = input.requires_grad_()
        actual, expected = ours(input.to(memory_format=layout)), theirs(input)
        grad_output = torch.randn_like(expected)
        gradients = (torch.autograd.grad(output, input, grad_output)[0] for output in (actual, expected))
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)

    def test_roi_align(self, dtype, output_size, sampling_ratio, layout, device):
        ops = pytest.importorskip('torchvision.ops', reason='compares with torchvision')
        torch.manual_seed(0)
        input = torch.randn(3, 5, 17, 23, dtype=dtype, device=device)
        rois = random_boxes(3, 40, (34, 46), dtype, seed=1).to(device)
        zero = torch.zeros(40, 2, *output_size, dtype=dtype, device=device)
        options = dict(spatial_scale=0.5, sampling_ratio=sampling_ratio)
        for offset in (None, zero):
            self.check(
                lambda input, offset=offset: deform_roi_pool(input, rois, offset, output_size, **options),
                lambda input: ops.roi_align(input, rois, output_size, aligned=True, **options),
                input,
                layout,
                dtype,
            )

    def test_ps_roi_align(self, dtype, output_size, sampling_ratio, layout, device):
        ops = pytest.importorskip('torchvision.ops', reason='compares with torchvision')
        torch.manual_seed(0)
        input = torch.randn(3, 4 * math.prod(output_size), 17, 23, dtype=dtype, device=device)
        rois = random_boxes(3, 40, (34, 46), dtype, seed=1).to(device)
        zero = torch.zeros(40, 4, *output_size, dtype=dtype, device=device)
        options = dict(spatial_scale=0.5, sampling_ratio=sampling_ratio)
        theirs = lambda input: ops.ps_roi_align(input, rois, output_size, **options)  # noqa: E731
        self.check(lambda input: ps_roi_pool(input, rois, output_size, **options), theirs, input, layout, dtype)
        ours = lambda input: deform_ps_roi_pool(input, rois, zero, output_size, **options)  # noqa: E731
        self.check(ours, theirs, input, layout, dtype)


class TestProperties:
    @pytest.mark.parametrize('sampling_ratio', [0, 3])
    @pytest.mark.parametrize('name', ['deform_roi_pool', 'deform_ps_roi_pool'])
    def test_constant_offset_is_the_same_pool_of_a_shifted_box(self, name, sampling_ratio, device):
        tensors, options = make_inputs(name, sampling_ratio=sampling_ratio, device=device)
        x, y = 0.7, -0.4
        shape = tensors['offset'].shape
        constant = torch.tensor([x, y], dtype=torch.float64, device=device).repeat(shape[1] // 2)
        tensors['offset'] = constant[:, None, None].expand(shape)
        shifted = tensors['rois'].clone()
        size = shifted[:, 3:] - shifted[:, 1:3]
        shift = options['gamma'] * size * torch.tensor([x, y], dtype=torch.float64, device=device)
        shifted[:, 1:] += torch.cat([shift, shift], dim=1)
        moved = OPERATORS[name](**tensors, **options)
        regular = OPERATORS[name](
            **{**tensors, 'rois': shifted, 'offset': torch.zeros_like(tensors['offset'])}, **options
        )
        torch.testing.assert_close(moved, regular, rtol=1e-10, atol=1e-10)
        unmoved = OPERATORS[name](**{**tensors, 'offset': torch.zeros_like(tensors['offset'])}, **options)
        assert (moved - unmoved).abs().max() > 0.1

    def test_modulation_of_one_is_none(self, device):
        tensors, options = make_inputs(device=device)
        without = deform_roi_pool(**{**tensors, 'mask': None}, **options)
        one = torch.ones_like(tensors['mask'])
        assert torch.equal(deform_roi_pool(**{**tensors, 'mask': one}, **options), without)
        assert torch.equal(deform_roi_pool(**tensors, **options), without * tensors['mask'][:, None])

    @pytest.mark.parametrize('name', OPERATORS)
    def test_a_constant_map_is_returned(self, name, device):
        tensors, options = make_inputs(name, batch=1, size=(30, 40), device=device, spread=0.5)
        tensors['input'] = torch.full_like(tensors['input'], 3.25)
        tensors['rois'] = torch.tensor(
            [[0, 30, 22, 41.5, 50.25], [0, 34, 20, 60, 41]], dtype=torch.float64, device=device
        )
        tensors = {key: t if key == 'input' else t[:2] for key, t in tensors.items()}
        tensors.pop('mask', None)
        output = OPERATORS[name](**tensors, **options)
        torch.testing.assert_close(output, torch.full_like(output, 3.25))

    def test_one_class_of_offsets_is_for_all(self, device):
        tensors, options = make_inputs('deform_ps_roi_pool', classes=1, channels=6, device=device)
        one = deform_ps_roi_pool(**tensors, **options)
        tensors['offset'] = tensors['offset'].repeat(1, 3, 1, 1)
        torch.testing.assert_close(deform_ps_roi_pool(**tensors, **options), one, rtol=1e-12, atol=1e-12)

    def test_rois_are_independent(self, device):
        tensors, options = make_inputs(device=device)
        order = torch.tensor([4, 0, 5], device=device)
        some = {key: t if key == 'input' else t[order] for key, t in tensors.items()}
        whole = deform_roi_pool(**tensors, **options)
        assert torch.equal(deform_roi_pool(**some, **options), whole[order])


@st.composite
def calls(draw):
    name = draw(st.sampled_from(list(OPERATORS)))
    pair = lambda least, most: st.tuples(st.integers(least, most), st.integers(least, most))  # noqa: E731
    tensors, options = make_inputs(
        name,
        batch=draw(st.integers(1, 3)),
        size=draw(pair(1, 12)),
        rois=draw(st.integers(0, 5)),
        channels=draw(st.integers(1, 20)),
        classes=draw(st.integers(1, 3)),
        output_size=draw(pair(1, 4)),
        spatial_scale=draw(st.sampled_from([0.25, 0.7, 1.0])),
        sampling_ratio=draw(st.integers(0, 3)),
        gamma=draw(st.sampled_from([0.0, 0.1, 1.0])),
        spread=draw(st.sampled_from([0.0, 1.0, 5.0])),
        seed=draw(st.integers(0, 2**31)),
    )
    kind = draw(st.sampled_from(['plain', 'whole', 'swapped', 'flat']))
    rois = tensors['rois']
    if kind == 'whole':  # samples on pixels, on the border and exactly a pixel outside
        rois[:, 1:] = (rois[:, 1:] * options['spatial_scale']).round() / options['spatial_scale']
    elif kind == 'swapped':
        rois[:, [1, 3]] = rois[:, [3, 1]]
    elif kind == 'flat':
        rois[:, 4] = rois[:, 2]
    if name == 'deform_roi_pool' and draw(st.booleans()):
        del tensors['mask']
    return name, tensors, options


class TestAgainstReference:
    @settings(max_examples=200, deadline=None)
    @given(calls())
    def test_any_arguments(self, call):
        name, tensors, options = call
        specification = getattr(reference, name)
        assert_same(run(OPERATORS[name], tensors, options), run(specification, tensors, options), 1e-9)

    @pytest.mark.parametrize('channels', [1, 3, 16, 17, 40])
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize('name', OPERATORS)
    def test_dtypes_against_float64(self, name, dtype, channels, device):
        tensors, options = make_inputs(name, channels=channels, dtype=dtype, device=device)
        exact = run(getattr(reference, name), {key: t.double() for key, t in tensors.items()}, options)
        for key, result in run(OPERATORS[name], tensors, options).items():
            assert result.dtype == dtype
            # Sums are in float32; positions are too, whence the constant.
            allowed = 8 * ROUNDING[dtype] * exact[key].abs().max() + 1e-5
            assert (result.double() - exact[key]).abs().max() <= allowed, key

    @pytest.mark.parametrize('op', [deform_roi_pool, reference.deform_roi_pool], ids=['compiled', 'reference'])
    def test_boxes_keep_their_precision_beside_16_bits(self, op, device):
        """Column 1001 has no bfloat16; the map rises by 1 per column, modulo 8."""
        input = (torch.arange(1100, device=device) % 8).to(torch.bfloat16).expand(1, 1, 3, 1100)
        rois = torch.tensor([[0.0, 1001.5, 1, 1002.5, 2]], device=device)
        assert op(input, rois, None, 1).item() == 1001.5 % 8

    @pytest.mark.parametrize('name', OPERATORS)
    def test_strides(self, name, device):
        tensors, options = make_inputs(name, device=device)
        expected = run(OPERATORS[name], tensors, options)
        strided = {key: torch.stack([t, t], dim=-1)[..., 0] for key, t in tensors.items()}
        last = {**tensors, 'input': tensors['input'].to(memory_format=torch.channels_last)}
        double = torch.cat([tensors['input'], tensors['input'] + 1], dim=0)
        sliced = {**tensors, 'input': double[: tensors['input'].shape[0]]}
        for changed in (strided, last, sliced):
            assert changed['input'].stride() != tensors['input'].stride() or changed is sliced
            assert_same(run(OPERATORS[name], changed, options), expected, 1e-14)

    def test_images_of_a_larger_batch(self, device):
        """Every second image, and some of the channels, without a copy of the rest."""
        tensors, options = make_inputs(batch=6, channels=9, device=device)
        tensors['rois'][:, 0] %= 3
        part = {**tensors, 'input': tensors['input'][::2, 2:7]}
        copied = {**part, 'input': part['input'].contiguous()}
        assert_same(run(deform_roi_pool, part, options), run(deform_roi_pool, copied, options), 0)

    @pytest.mark.parametrize('batch', [0, 2])
    @pytest.mark.parametrize('name', OPERATORS)
    def test_no_rois(self, name, batch, device):
        tensors, options = make_inputs(name, batch=batch, rois=0, device=device)
        results = run(OPERATORS[name], tensors, options)
        classes = 2 if name == 'deform_ps_roi_pool' else 1
        assert results['output'].shape == (0, 4 * classes, 3, 2)
        for key, t in tensors.items():
            if key != 'rois':
                assert results[key].shape == t.shape and not results[key].any()

    @pytest.mark.parametrize('name', OPERATORS)
    def test_numbers_of_numpy(self, name, device):
        np = pytest.importorskip('numpy', reason='its numbers')
        tensors, options = make_inputs(name, sampling_ratio=2, spatial_scale=0.5, gamma=0.25, device=device)
        numbers = dict(output_size=(np.int64(3), np.int32(2)), sampling_ratio=np.int64(2))
        numbers |= dict(spatial_scale=np.float32(0.5))
        numbers |= dict(gamma=np.float64(0.25)) if 'gamma' in options else {}
        expected = OPERATORS[name](**tensors, **options)
        assert torch.equal(OPERATORS[name](**tensors, **numbers), expected)

    def test_an_int_is_a_pair(self, device):
        tensors, options = make_inputs(output_size=(3, 3), device=device)
        expected = deform_roi_pool(**tensors, **options)
        assert torch.equal(deform_roi_pool(**tensors, **{**options, 'output_size': 3}), expected)

    def test_only_the_gradients_that_are_asked_for(self, device):
        tensors, options = make_inputs(device=device)
        everything = run(deform_roi_pool, tensors, options)
        for wanted in (['input'], ['offset'], ['mask'], ['input', 'mask']):
            leaves = {key: t.detach().requires_grad_(key in wanted) for key, t in tensors.items()}
            output = deform_roi_pool(**leaves, **options)
            generator = torch.Generator().manual_seed(1)
            output.backward(torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output))
            for key, leaf in leaves.items():
                if key in wanted:
                    torch.testing.assert_close(leaf.grad, everything[key], rtol=1e-12, atol=1e-12)
                else:
                    assert leaf.grad is None


@pytest.mark.parametrize('name', OPERATORS)
class TestUnusualBoxes:
    def replaced(self, name, device, box, **options):
        """The results where RoI 1 is this box, and the same without it."""
        tensors, arguments = make_inputs(name, device=device, **options)
        tensors['rois'][1, 1:] = torch.tensor(box, dtype=torch.float64, device=device)
        others = torch.tensor([0, 2, 3, 4, 5], device=device)
        without = {key: t if key == 'input' else t[others] for key, t in tensors.items()}
        grad_output = torch.randn(
            6, 4 * (2 if name == 'deform_ps_roi_pool' else 1), 3, 2, dtype=torch.float64, device=device
        )

        def results(tensors, grad_output):
            tensors = {key: t.detach().requires_grad_(key != 'rois') for key, t in tensors.items()}
            output = OPERATORS[name](**tensors, **arguments)
            leaves = {key: t for key, t in tensors.items() if key != 'rois'}
            gradients = torch.autograd.grad(output, [*leaves.values()], grad_output)
            return {'output': output, **dict(zip(leaves, gradients, strict=True))}

        return results(tensors, grad_output), results(without, grad_output[others]), others

    @pytest.mark.parametrize(
        'box, options',
        [
            ((500.0, 20, 540, 30), dict()),  # right of the image
            ((10.0, -90, 20, -60), dict(sampling_ratio=2)),  # above it
            ((10.0, 12, 10, 20), dict()),  # no area
            ((10.0, 12, 10, 12), dict()),
            ((10.0, 20, 15, 12), dict()),  # swapped corners
            ((15.0, 20, 10, 12), dict()),
        ],
        ids=str,
    )
    def test_gives_zeros(self, name, box, options, device):
        with_it, without, others = self.replaced(name, device, box, **options)
        assert not with_it['output'][1].any() and with_it['output'][0].any()
        torch.testing.assert_close(with_it.pop('input'), without.pop('input'), rtol=1e-12, atol=1e-12)
        for key, result in with_it.items():
            # The modulation's gradient is the average, which is 0 as well.
            assert not result[1].any(), key
            assert torch.equal(result[others], without[key]), key

    @pytest.mark.parametrize('coordinate', range(4))
    @pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
    def test_without_a_place_is_nan(self, name, value, coordinate, device):
        box = [10.0, 12, 15, 20]
        box[coordinate] = value
        with_it, without, others = self.replaced(name, device, box)
        torch.testing.assert_close(with_it.pop('input'), without.pop('input'), rtol=1e-12, atol=1e-12)
        for key, result in with_it.items():
            assert result[1].isnan().all(), key
            assert torch.equal(result[others], without[key]), key

    @pytest.mark.parametrize('sampling_ratio', [0, 1024])
    @pytest.mark.parametrize(
        'box', [(-1e30, -1e30, 1e30, 1e30), (-1e300, 0, 1e300, 9), (-1e9, -1e9, 2e9, 3e9)], ids=str
    )
    def test_huge_ends_soon(self, name, box, sampling_ratio, device):
        with_it, *_ = self.replaced(name, device, box, sampling_ratio=sampling_ratio)
        assert with_it['output'][1].isfinite().all() and with_it['input'].isfinite().all()

    def test_a_point_sampled_is_the_pixel(self, name, device):
        """Without area, but with a number of samples given."""
        tensors, options = make_inputs(name, device=device, sampling_ratio=2)
        tensors['rois'][:, 1:] = torch.tensor([5.0, 7.5, 5.0, 7.5], device=device)  # * 0.4 - 0.5 = (1.5, 2.5)
        tensors.pop('mask', None)
        output = OPERATORS[name](**tensors, **options)
        corners = tensors['input'][tensors['rois'][:, 0].long(), :, 2:4, 1:3].mean(dim=(2, 3))
        if name == 'deform_roi_pool':
            corners = corners[..., None].expand(-1, -1, 6)
        torch.testing.assert_close(output, corners.reshape(output.shape))

    @pytest.mark.parametrize('index', [-1, 3, math.nan, math.inf, -0.5, 1e30])
    def test_image_index_out_of_range(self, name, index, device):
        if device.type != 'cpu':
            pytest.skip('an error on the CPU alone; elsewhere see the emulation of CUDA')
        tensors, options = make_inputs(name, device=device)
        tensors['rois'][2, 0] = index
        message = rf'at least 0 and less than the batch size 3, got {index:g}'.replace('+', r'\+') + ' in RoI 2'
        with pytest.raises(IndexError, match=message):
            OPERATORS[name](**tensors, **options)
        tensors = {key: t.float() for key, t in tensors.items()}
        with pytest.raises(IndexError, match=message):
            OPERATORS[name](**tensors, **options)


class TestUnusualOffsets:
    @pytest.mark.parametrize('op', [deform_roi_pool, reference.deform_roi_pool], ids=['compiled', 'reference'])
    @pytest.mark.parametrize('axis', [0, 1])
    def test_nan_is_for_its_bin(self, op, axis, device):
        tensors, options = make_inputs(device=device)
        tensors['offset'][3, axis, 2, 1] = math.nan
        nan = op(**tensors, **options).isnan()
        assert nan[3, :, 2, 1].all() and nan.sum() == nan.shape[1]

    def test_gradients_of_nan_stay_there(self, device):
        tensors, options = make_inputs(device=device)
        tensors['offset'][3, 0, 2, 1] = math.nan
        results = run(deform_roi_pool, tensors, options)
        assert results['input'].isfinite().all()
        assert results['offset'][3, :, 2, 1].isnan().all() and results['offset'].isnan().sum() == 2
        assert results['mask'][3, 2, 1].isnan() and results['mask'].isnan().sum() == 1

    @pytest.mark.parametrize('far', [1e6, math.inf, -math.inf])
    def test_far_bins_are_zero(self, far, device):
        tensors, options = make_inputs(device=device)
        tensors['offset'] = torch.full_like(tensors['offset'], far)
        assert not any(result.any() for result in run(deform_roi_pool, tensors, options).values())

    def test_nan_pixel_spreads_to_the_bins_that_read_it(self, device):
        input = torch.zeros(1, 2, 7, 9, device=device)
        input[0, 1, 4, 3] = math.nan
        rois = torch.tensor([[0.0, 1, 1, 7, 7]], device=device)  # bins of 2 x 2 pixels, whose samples are pixels
        nan = deform_roi_pool(input, rois, None, 3).isnan()
        # A sample on a whole pixel reads the one to its right too, with weight 0: so does the bin to the left.
        assert not nan[0, 0].any() and nan[0, 1].nonzero().tolist() == [[1, 0], [1, 1]]


class TestPyTorch:
    """Everything PyTorch asks of an operator."""

    @pytest.mark.parametrize('sampling_ratio', [0, 2])
    @pytest.mark.parametrize('name', OPERATORS)
    def test_gradcheck(self, name, sampling_ratio, device):
        tensors, options = make_inputs(
            name, batch=2, size=(5, 6), rois=3, channels=2, sampling_ratio=sampling_ratio, device=device
        )
        rois = tensors.pop('rois')
        leaves = [t.requires_grad_() for t in tensors.values()]
        op = OPERATORS[name]
        assert torch.autograd.gradcheck(
            lambda *t: op(rois=rois, **dict(zip(tensors, t, strict=True)), **options), leaves
        )

    @pytest.mark.parametrize('name', OPERATORS)
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_opcheck(self, name, dtype, device):
        tensors, options = make_inputs(name, dtype=dtype, device=device)
        detached, options = [*tensors.values()], [*options.values()]
        operator, backward = (getattr(torch.ops.ops_dcnv3, n).default for n in (name, f'{name}_backward'))
        leaves = [t if key == 'rois' else t.clone().requires_grad_() for key, t in tensors.items()]
        torch.library.opcheck(operator, (*leaves, *options))
        grad_output = torch.randn_like(operator(*detached, *options))
        count = len(tensors) - 1
        for wanted in ([True] * count, [True, False, False][:count], [False, True, False][:count]):
            torch.library.opcheck(backward, (grad_output, *detached, *options, wanted))

    def test_opcheck_without_offset_and_mask(self, device):
        tensors, options = make_inputs(device=device)
        without = tensors['input'], tensors['rois'], None, None
        operators = torch.ops.ops_dcnv3.deform_roi_pool, torch.ops.ops_dcnv3.deform_roi_pool_backward
        output = operators[0](*without, *options.values())
        torch.library.opcheck(operators[0].default, (*without, *options.values()))
        wanted = [True, False, False]
        torch.library.opcheck(operators[1].default, (torch.randn_like(output), *without, *options.values(), wanted))

    def test_schemas_have_the_names_and_arguments_of_the_functions(self):
        for name, function in OPERATORS.items():
            operator = getattr(torch.ops.ops_dcnv3, name).default
            backward = getattr(torch.ops.ops_dcnv3, f'{name}_backward').default
            arguments = [argument.name for argument in operator._schema.arguments]
            assert set(arguments) == set(inspect.signature(function).parameters)
            assert [a.name for a in backward._schema.arguments] == ['grad_output', *arguments, 'output_mask']
        assert not hasattr(torch.ops.ops_dcnv3, 'roi_pool')

    @pytest.mark.parametrize('name', OPERATORS)
    def test_compiles_without_graph_break(self, name, device):
        tensors, options = make_inputs(name, dtype=torch.float32, device=device)
        compiled = torch.compile(lambda **t: OPERATORS[name](**t, **options), fullgraph=True, backend='aot_eager')
        assert_same(run(compiled, tensors, {}), run(OPERATORS[name], tensors, options), 0)

    def test_numbers_of_a_layer_may_be_dynamic(self, device):
        """With dynamic=True torch.compile takes spatial_scale and gamma of the layer for unknown numbers."""
        tensors, _ = make_inputs('deform_roi_pool', dtype=torch.float32, device=device)
        tensors = {key: tensors[key].detach() for key in ('input', 'rois')}
        layer = DeformRoIPool((3, 2), spatial_scale=0.5, gamma=0.2)
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend='aot_eager')
        assert torch.equal(compiled(**tensors), layer(**tensors))

    @pytest.mark.parametrize('name', OPERATORS)
    def test_autocast_leaves_the_boxes_alone(self, name, device):
        tensors, options = make_inputs(name, dtype=torch.float32, device=device)
        for dtype in (torch.bfloat16, torch.float16):
            cast = {key: t if key == 'rois' else t.to(dtype) for key, t in tensors.items()}
            with torch.autocast(device.type, dtype):
                output = OPERATORS[name](**{**cast, 'input': tensors['input']}, **options)
            assert output.dtype == dtype and torch.equal(output, OPERATORS[name](**cast, **options))
        with torch.autocast(device.type, torch.bfloat16):
            double = {key: t.double() for key, t in tensors.items()}
            assert OPERATORS[name](**double, **options).dtype == torch.float64

    @pytest.mark.parametrize('name', OPERATORS)
    def test_meta_device_gives_the_shape(self, name):
        tensors, options = make_inputs(name)
        output = OPERATORS[name](**{key: t.to('meta') for key, t in tensors.items()}, **options)
        assert output.shape == OPERATORS[name](**tensors, **options).shape and output.device.type == 'meta'

    @pytest.mark.parametrize('name', OPERATORS)
    def test_results_do_not_depend_on_threads(self, name):
        tensors, options = make_inputs(name, batch=2, size=(20, 30), rois=40, channels=50, dtype=torch.float32)
        before = torch.get_num_threads()
        try:
            results = []
            for threads in (1, 2, 3, 4, 15):
                torch.set_num_threads(threads)
                results.append(run(OPERATORS[name], tensors, options))
        finally:
            torch.set_num_threads(before)
        for result in results[1:]:
            assert all(torch.equal(result[key], results[0][key]) for key in result)


class TestErrors:
    """Every error names the operator, the rule and the value received."""

    @pytest.mark.parametrize(
        'name, change, error, message',
        [
            ('deform_roi_pool', dict(output_size=0), ValueError, r'output_size must be .* at least 1, got 0'),
            ('ps_roi_pool', dict(output_size=(3, 2.0)), ValueError, r'output_size must be .* got \(3, 2.0\)'),
            ('deform_roi_pool', dict(spatial_scale=0), ValueError, r'spatial_scale must be larger than 0, got 0'),
            (
                'ps_roi_pool',
                dict(spatial_scale=math.nan),
                ValueError,
                r'spatial_scale must be a finite number, got nan',
            ),
            ('deform_ps_roi_pool', dict(gamma='1'), ValueError, r"gamma must be a finite number, got '1'"),
            ('deform_roi_pool', dict(sampling_ratio=-1), ValueError, r'sampling_ratio must be .* at least 0, got -1'),
            ('deform_roi_pool', dict(sampling_ratio=10**9), ValueError, r'must be at most 1024, got 1000000000'),
            ('ps_roi_pool', dict(sampling_ratio=1025), ValueError, r'sampling_ratio must be at most 1024, got 1025'),
            ('ps_roi_pool', dict(sampling_ratio=True), ValueError, r'sampling_ratio must be an int.* got True'),
            ('ps_roi_pool', dict(output_size=2**31), ValueError, r'output_size must be at most 2147483647'),
            ('ps_roi_pool', dict(sampling_ratio=1.5), ValueError, r'sampling_ratio must be an int.* got 1.5'),
            ('ps_roi_pool', dict(output_size=(3, 5)), ValueError, r'divisible by n \* height \* width = 15 .* got 24'),
            ('deform_roi_pool', dict(output_size=(2, 2)), ValueError, r'= \(6, 2, 2\).* got shape \(6, 3, 2\)'),
        ],
    )
    def test_options(self, name, change, error, message):
        tensors, options = make_inputs(name)
        with pytest.raises(error, match=f'^{name}: .*{message}'):
            OPERATORS[name](**tensors, **{**options, **change})

    @pytest.mark.parametrize(
        'name, key, replace, error, message',
        [
            ('deform_roi_pool', 'input', lambda t: t[0], ValueError, r'input must be \(N, C, H, W\).* \(4, 9, 13\)'),
            ('ps_roi_pool', 'input', lambda t: t[..., :0], ValueError, r'at least 1, got shape \(3, 24, 9, 0\)'),
            ('ps_roi_pool', 'rois', lambda t: t[:, :4], ValueError, r'rois must be \(K, 5\).* got shape \(6, 4\)'),
            ('deform_roi_pool', 'rois', lambda t: t.long(), TypeError, r'rois must be float32.* got torch.int64'),
            ('deform_roi_pool', 'rois', lambda t: None, TypeError, r'rois must be a tensor, got NoneType'),
            ('deform_roi_pool', 'offset', lambda t: t[:5], ValueError, r'= \(6, 2, 3, 2\).* shape \(5, 2, 3, 2\)'),
            ('deform_roi_pool', 'offset', lambda t: t.repeat(1, 2, 1, 1), ValueError, r'2, 3, 2\).* \(6, 4, 3, 2\)'),
            ('deform_ps_roi_pool', 'offset', lambda t: t[:, :3], ValueError, r'= \(6, 2, 3, 2\).* \(6, 3, 3, 2\)'),
            ('deform_ps_roi_pool', 'offset', lambda t: t[:, :0], ValueError, r'= \(6, 2, 3, 2\).* \(6, 0, 3, 2\)'),
            ('deform_ps_roi_pool', 'offset', lambda t: t.repeat(1, 3, 1, 1), ValueError, r'= 36 .* 6 classes.* got 48'),
            ('deform_ps_roi_pool', 'offset', lambda t: None, TypeError, r'offset must be a tensor, got NoneType'),
            ('deform_roi_pool', 'mask', lambda t: t[:, None], ValueError, r'mask .* = \(6, 3, 2\).* \(6, 1, 3, 2\)'),
            ('deform_roi_pool', 'mask', lambda t: t.float(), TypeError, r'one dtype, got input torch.float64, .*mask'),
            ('deform_roi_pool', 'mask', lambda t: t.to('meta'), ValueError, r'mask must be on .* cpu, got meta'),
        ],
    )  # fmt: skip
    def test_tensors(self, name, key, replace, error, message):
        tensors, options = make_inputs(name)
        tensors[key] = replace(tensors[key])
        with pytest.raises(error, match=f'^{name}: .*{message}'):
            OPERATORS[name](**tensors, **options)

    def test_the_raw_operator_stays_inside_its_tensors(self):
        tensors, options = make_inputs()
        arguments = [*tensors.values(), *options.values()]
        op = torch.ops.ops_dcnv3.deform_roi_pool
        for position in (1, 2, 3):
            broken = list(arguments)
            broken[position] = broken[position][..., :-1]
            with pytest.raises(RuntimeError, match='deform_roi_pool: .* must be'):
                op(*broken)
        with pytest.raises(RuntimeError, match='sampling_ratio must be from 0 to 1024, got 1000000000'):
            op(*arguments[:6], 10**9, *arguments[7:])
        with pytest.raises(RuntimeError, match='positive multiple of 6, got 4'):
            torch.ops.ops_dcnv3.ps_roi_pool(*arguments[:2], *arguments[4:7])
        grad_output = op(*arguments)
        backward = torch.ops.ops_dcnv3.deform_roi_pool_backward
        with pytest.raises(RuntimeError, match='grad_output must have the shape'):
            backward(grad_output[..., :-1], *arguments, [True, True, True])
        with pytest.raises(RuntimeError, match='no gradient by a tensor that is not given'):
            backward(grad_output, *arguments[:3], None, *arguments[4:], [True, True, True])


class TestModules:
    boxes = torch.tensor([[0, 2.0, 3, 19, 15], [1, -4, 5, 9, 24], [1, 7.5, 1, 18, 9]])

    def test_packs_start_at_regular_bins(self, device):
        torch.manual_seed(0)
        input, rois = torch.randn(2, 6, 9, 11, device=device), self.boxes.to(device)
        options = dict(spatial_scale=0.5, sampling_ratio=2)
        regular = deform_roi_pool(input, rois, None, (3, 2), **options)
        pack = DeformRoIPoolPack((3, 2), 6, 16, **options).to(device)
        torch.testing.assert_close(pack(input, rois), regular)
        modulated = ModulatedDeformRoIPoolPack((3, 2), 6, 16, **options).to(device)
        torch.testing.assert_close(modulated(input, rois), 0.5 * regular)
        scores = torch.randn(2, 24, 9, 11, device=device)
        sensitive = DeformPSRoIPoolPack((3, 2), 6, classes=2, **options).to(device)
        expected = ps_roi_pool(scores, rois, (3, 2), **options)
        torch.testing.assert_close(sensitive(scores, rois, input), expected)
        torch.testing.assert_close(PSRoIPool((3, 2), **options)(scores, rois), expected)

    def test_every_parameter_learns(self, device):
        """Of the layers behind the first zeros, once these have moved."""
        torch.manual_seed(0)
        input, rois = torch.randn(2, 6, 9, 11, device=device), self.boxes.to(device)
        for pack in (DeformRoIPoolPack((3, 2), 6, 16), ModulatedDeformRoIPoolPack((3, 2), 6, 16)):
            pack.to(device)(input, rois).square().sum().backward()
            assert pack.offset_fc[-1].weight.grad.any() and pack.offset_fc[-1].bias.grad.any()
            for parameter in pack.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
            pack(input, rois).square().sum().backward()
            assert all(parameter.grad.any() and parameter.grad.isfinite().all() for parameter in pack.parameters())
        pack = DeformPSRoIPoolPack((3, 2), 6, classes=1).to(device)
        pack(input, rois).square().sum().backward()  # the input itself predicts
        assert pack.offset_conv.weight.grad.any() and pack.offset_conv.bias.grad.any()

    def test_the_offset_field_is_pooled_by_class_and_bin(self, device):
        torch.manual_seed(0)
        scores, features = torch.randn(2, 24, 9, 11, device=device), torch.randn(2, 5, 9, 11, device=device)
        rois = self.boxes.to(device)
        pack = DeformPSRoIPoolPack((3, 2), 5, classes=2, spatial_scale=0.5, sampling_ratio=1, gamma=0.4).to(device)
        torch.nn.init.normal_(pack.offset_conv.weight)
        offset = ps_roi_pool(pack.offset_conv(features), rois, (3, 2), 0.5, 1)
        assert offset.shape == (3, 4, 3, 2)
        expected = deform_ps_roi_pool(scores, rois, offset, (3, 2), 0.5, 1, 0.4)
        torch.testing.assert_close(pack(scores, rois, features), expected)

    def test_pools_with_offsets_from_outside(self, device):
        tensors, options = make_inputs(dtype=torch.float32, device=device)
        input, rois, offset, mask = tensors.values()
        expected = deform_roi_pool(**tensors, **options)
        assert torch.equal(ModulatedDeformRoIPool(**options)(input, rois, offset, mask), expected)
        expected = deform_roi_pool(input, rois, offset, **options)
        assert torch.equal(DeformRoIPool(**options)(input, rois, offset), expected)

    @pytest.mark.parametrize('name', ['DeformRoIPoolPack', 'ModulatedDeformRoIPoolPack'])
    def test_checkpoints_of_mmcv_fit(self, name):
        theirs = pytest.importorskip('mmcv.ops', reason='compares with mmcv')
        arguments = dict(
            output_size=(3, 2), output_channels=6, deform_fc_channels=8, spatial_scale=0.25, sampling_ratio=2, gamma=0.2
        )
        ours = {'DeformRoIPoolPack': DeformRoIPoolPack, 'ModulatedDeformRoIPoolPack': ModulatedDeformRoIPoolPack}
        a, b = ours[name](**arguments), getattr(theirs, name)(**arguments)
        assert list(a.state_dict()) == list(b.state_dict())
        a.load_state_dict(b.state_dict())
        b.load_state_dict(a.state_dict())
        for key in arguments:
            assert getattr(a, key) == getattr(b, key)

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_autocast(self, dtype, device):
        torch.manual_seed(0)
        input, rois = torch.randn(2, 6, 9, 11, device=device), self.boxes.to(device)
        pack = ModulatedDeformRoIPoolPack((3, 2), 6, 16).to(device)
        for parameter in pack.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        with torch.autocast(device.type, dtype):
            output = pack(input, rois)
        output.float().square().mean().backward()
        assert output.dtype == dtype and all(p.grad.isfinite().all() for p in pack.parameters())
        torch.testing.assert_close(output.float(), pack(input, rois), rtol=0.1, atol=0.03)

    def test_no_rois(self, device):
        input, rois = torch.randn(2, 6, 9, 11, device=device), torch.zeros(0, 5, device=device)
        for pack in (DeformRoIPoolPack((3, 2), 6, 16), ModulatedDeformRoIPoolPack((3, 2), 6, 16)):
            output = pack.to(device)(input, rois)
            assert output.shape == (0, 6, 3, 2)
            output.sum().backward()
        assert DeformPSRoIPoolPack((3, 2), 6).to(device)(input, rois).shape == (0, 1, 3, 2)

    def test_wrong_channels_are_an_error(self):
        with pytest.raises(
            ValueError, match=r'DeformRoIPoolPack: input must be \(N, 6, H, W\), got shape \(2, 5, 9, 11\)'
        ):
            DeformRoIPoolPack((3, 2), 6)(torch.zeros(2, 5, 9, 11), self.boxes)
