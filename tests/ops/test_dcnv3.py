import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from property_tests import given, settings, st

from ops_dcnv3 import dcnv3, reference

GOLDEN = [
    't_stage1',
    'nonsquare',
    'xl_offset_scale2',
    'odd_group_channels',
    'k5_pad2',
    'dilation2',
    'stride2',
    'k1',
    'remove_center',
    'no_pad',
    'far_offsets',
]
# Rounding of the output, by the largest sum of |mask * value| that goes into it.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def make_inputs(
    batch=2,
    size=(7, 10),
    kernel_size=(3, 2),
    stride=(2, 1),
    padding=(1, 0),
    dilation=(1, 2),
    groups=3,
    group_channels=5,
    offset_scale=1.5,
    remove_center=False,
    softmax=False,
    dtype=torch.float64,
    device='cpu',
    spread=1.5,
    seed=0,
):
    """Tensors and keyword arguments of one call. No number is like its neighbour, so that nothing can be swapped."""
    generator = torch.Generator().manual_seed(seed)
    out_size = [(size[i] + 2 * padding[i] - dilation[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    points = groups * (kernel_size[0] * kernel_size[1] - remove_center)
    shapes = (
        (batch, *size, groups * group_channels),
        (batch, *out_size, points * 2),
        (batch, *out_size, points),
    )
    input, offset, mask = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    tensors = [t.to(device, dtype).requires_grad_() for t in (input, offset * spread, mask.abs())]
    options = dict(
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        offset_scale=offset_scale,
        remove_center=remove_center,
        softmax=softmax,
    )
    return tensors, options


def run(op, tensors, options, grad_seed=1):
    """Output and the three gradients, for one fixed gradient of the output."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    output = op(*tensors, **options)
    generator = torch.Generator().manual_seed(grad_seed)
    grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    return output.detach(), *torch.autograd.grad(output, tensors, grad_output)


def assert_same(actual, expected, tolerance):
    for name, a, e in zip(('output', 'grad input', 'grad offset', 'grad mask'), actual, expected, strict=True):
        torch.testing.assert_close(a.to(e), e, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f'{name}: {m}')


class TestGolden:
    """Outputs of the official implementation. The copies in tests/data hold one image or group of the larger cases."""

    @pytest.mark.parametrize('op', [dcnv3, reference.dcnv3], ids=['compiled', 'reference'])
    @pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 2e-5)])
    @pytest.mark.parametrize('name', GOLDEN)
    def test_committed(self, name, dtype, tolerance, op, data, device):
        self.check(data, name, dtype, tolerance, op, device)

    @pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 2e-5)])
    @pytest.mark.parametrize('name', GOLDEN)
    def test_full(self, name, dtype, tolerance, shared, device):
        self.check(shared / 'fixtures' / 'official', name, dtype, tolerance, dcnv3, device)

    def check(self, folder, name, dtype, tolerance, op, device):
        case = json.loads((folder / 'dcnv3_op.json').read_text())[name]
        with np.load(folder / 'dcnv3_op.npz') as arrays:
            get = {
                key: torch.from_numpy(arrays[f'{name}/{key}']).to(device)
                for key in (
                    'input',
                    'offset',
                    'mask',
                    'grad_output',
                    'output',
                    'grad_input',
                    'grad_offset',
                    'grad_mask',
                )
            }
        tensors = [get[key].to(dtype).requires_grad_() for key in ('input', 'offset', 'mask')]
        output = op(
            *tensors,
            kernel_size=case['kernel'],
            stride=case['stride'],
            padding=case['pad'],
            dilation=case['dilation'],
            groups=case['group'],
            offset_scale=case['offset_scale'],
            remove_center=bool(case['remove_center']),
        )
        gradients = torch.autograd.grad(output, tensors, get['grad_output'].to(dtype))
        expected = [get[key] for key in ('output', 'grad_input', 'grad_offset', 'grad_mask')]
        for actual, wanted in zip((output, *gradients), expected, strict=True):
            assert (actual.double() - wanted).abs().max() <= tolerance


class TestByHand:
    """One channel, a 3 x 3 image of the numbers 1 to 9, a window of one point: what comes out can be read off.

    1 2 3
    4 5 6
    7 8 9
    """

    image = torch.arange(1.0, 10).reshape(1, 3, 3, 1)

    def sample(self, x, y, mask=1.0, device='cpu', **options):
        """The image sampled with the same offset (x, y) at each pixel."""
        offset = torch.tensor([x, y]).expand(1, 3, 3, 2)
        output = dcnv3(
            self.image.to(device),
            offset.to(device),
            torch.full((1, 3, 3, 1), mask, device=device),
            kernel_size=1,
            padding=0,
            groups=1,
            **options,
        )
        return output.reshape(3, 3).tolist()

    def test_zero_offset_is_identity(self, device):
        assert self.sample(0.0, 0.0, device=device) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]

    def test_x_moves_along_the_row_and_zeros_lie_outside(self, device):
        assert self.sample(1.0, 0.0, device=device) == [[2, 3, 0], [5, 6, 0], [8, 9, 0]]

    def test_y_moves_along_the_column(self, device):
        assert self.sample(0.0, -1.0, device=device) == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]

    def test_between_pixels(self, device):
        # (x, y) = (0.5, 0.25) from pixel (0, 0): 0.75 * (1 + 2) / 2 + 0.25 * (4 + 5) / 2 = 2.25
        assert self.sample(0.5, 0.25, device=device)[0][0] == 2.25

    def test_half_outside(self, device):
        # 0.5 beyond the last column: half of the value there, half of the zeros outside
        assert self.sample(0.5, 0.0, device=device)[1] == [4.5, 5.5, 3.0]

    def test_mask_weighs_and_offset_scale_multiplies(self, device):
        assert self.sample(0.5, 0.0, mask=2.0, offset_scale=2.0, device=device)[0] == [4, 6, 0]

    def test_points_run_with_x_as_the_outer_loop(self, device):
        """A mask that picks one of the nine points shifts the image by that point of the grid."""
        input, offset = self.image.to(device), torch.zeros(1, 3, 3, 18, device=device)
        for point in range(9):
            mask = torch.zeros(1, 3, 3, 9, device=device)
            mask[..., point] = 1
            i, j = divmod(point, 3)  # x, y
            x, y = 1 + i - 1, 1 + j - 1  # of the middle pixel's sample
            assert dcnv3(input, offset, mask, groups=1)[0, 1, 1, 0] == self.image[0, y, x, 0]


class TestAgainstReference:
    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_any_geometry(self, data):
        draw = data.draw
        pair = lambda least, most: st.tuples(st.integers(least, most), st.integers(least, most))  # noqa: E731
        kernel_size = draw(st.one_of(pair(1, 4), st.sampled_from([(5, 5), (7, 7)])))
        dilation, padding = draw(pair(1, 3)), draw(pair(0, 3))
        least = [max(1, dilation[i] * (kernel_size[i] - 1) + 1 - 2 * padding[i]) for i in (0, 1)]
        odd = kernel_size[0] % 2 == kernel_size[1] % 2 == 1 and kernel_size != (1, 1)
        tensors, options = make_inputs(
            batch=draw(st.integers(0, 3)),
            size=tuple(draw(st.integers(n, n + 9)) for n in least),
            kernel_size=kernel_size,
            stride=draw(pair(1, 3)),
            padding=padding,
            dilation=dilation,
            groups=draw(st.integers(1, 5)),
            group_channels=draw(st.integers(1, 40)),
            offset_scale=draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
            remove_center=odd and draw(st.booleans()),
            softmax=draw(st.booleans()),
            spread=draw(st.sampled_from([0.0, 1.0, 10.0])),
            seed=draw(st.integers(0, 2**31)),
        )
        assert_same(run(dcnv3, tensors, options), run(reference.dcnv3, tensors, options), 1e-9)

    @pytest.mark.parametrize('group_channels', [1, 3, 4, 8, 12, 16, 17, 32, 64, 100])
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
    def test_dtypes_against_float64(self, dtype, group_channels, device):
        tensors, options = make_inputs(group_channels=group_channels, dtype=dtype, device=device)
        exact = run(reference.dcnv3, [t.double() for t in tensors], options)
        # The same sums over absolute values bound what rounding each term can do.
        bound = run(reference.dcnv3, [tensors[0].double().abs(), *(t.double() for t in tensors[1:])], options)[0].max()
        output, *gradients = run(dcnv3, tensors, options)
        assert output.dtype == dtype
        assert (output.double() - exact[0]).abs().max() <= 2 * ROUNDING[dtype] * bound
        for gradient, wanted in zip(gradients, exact[1:], strict=True):
            assert gradient.dtype == dtype
            # grad_output is rounded as well, and every sum runs over many terms.
            scale = wanted.abs().max()
            assert (gradient.double() - wanted).abs().max() <= 8 * ROUNDING[dtype] * scale

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_the_reference_keeps_positions_exact_in_16_bits(self, dtype, device):
        """Column 300 and pixel 1100 have no exact bfloat16."""
        tensors, options = make_inputs(size=(4, 300), dtype=dtype, device=device)
        exact = run(reference.dcnv3, [t.double() for t in tensors], options)[0]
        output = run(reference.dcnv3, tensors, options)[0]
        assert output.dtype == dtype
        torch.testing.assert_close(output.double(), exact, rtol=2 * ROUNDING[dtype], atol=1e-3)

    @pytest.mark.parametrize('stride', [1, 3])
    @pytest.mark.parametrize('size, group_channels', [((5, 1031), 16), ((9, 200), 110)])
    def test_wide_maps(self, size, group_channels, stride, device):
        """The CPU goes through them band of columns by band of columns."""
        window = dict(kernel_size=(3, 3), padding=(1, 1), stride=(1, stride), dilation=(1, 1))
        tensors, options = make_inputs(batch=2, size=size, group_channels=group_channels, **window, device=device)
        for result, expected in zip(run(dcnv3, tensors, options), run(reference.dcnv3, tensors, options), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize('offset_scale', [-4.0, -6.0, -1000.0, 0.0, 1e30])
    @pytest.mark.parametrize('width', [40, 1000])
    def test_any_offset_scale(self, width, offset_scale, device):
        """Also where points lie mirrored, all on one spot, or nowhere."""
        tensors, options = make_inputs(
            batch=1, size=(8, width), offset_scale=offset_scale, group_channels=22, device=device
        )
        for result, expected in zip(run(dcnv3, tensors, options), run(reference.dcnv3, tensors, options), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)

    def test_non_contiguous(self, device):
        tensors, options = make_inputs(device=device)
        strided = [torch.stack([t, t], dim=-1)[..., 0].transpose(1, 2).contiguous().transpose(1, 2) for t in tensors]
        assert not any(t.is_contiguous() for t in strided)
        assert_same(run(dcnv3, strided, options), run(dcnv3, tensors, options), 0)

    def test_empty_batch(self, device):
        tensors, options = make_inputs(batch=0, device=device)
        output, *gradients = run(dcnv3, tensors, options)
        assert output.shape == (0, 4, 8, 15)
        assert [g.shape for g in gradients] == [t.shape for t in tensors]

    def test_ints_are_pairs(self, device):
        tensors, options = make_inputs(
            kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 1), device=device
        )
        as_ints = {key: value[0] if isinstance(value, tuple) else value for key, value in options.items()}
        assert_same(run(dcnv3, tensors, as_ints), run(dcnv3, tensors, options), 0)

    def test_numbers_of_numpy(self, device):
        tensors, options = make_inputs(device=device)
        numbers = {key: tuple(map(np.int64, value)) for key, value in options.items() if isinstance(value, tuple)}
        numbers = options | numbers
        numbers |= dict(groups=np.int32(options['groups']), offset_scale=np.float32(options['offset_scale']))
        assert_same(run(dcnv3, tensors, numbers), run(dcnv3, tensors, options), 0)

    def test_only_the_gradients_that_are_asked_for(self, device):
        tensors, options = make_inputs(device=device)
        everything = run(dcnv3, tensors, options)[1:]
        for wanted in ([0], [1], [2], [0, 2], [1, 2]):
            leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
            output = dcnv3(*leaves, **options)
            generator = torch.Generator().manual_seed(1)
            output.backward(torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output))
            for i, leaf in enumerate(leaves):
                if i in wanted:
                    torch.testing.assert_close(leaf.grad, everything[i], rtol=1e-12, atol=1e-12)
                else:
                    assert leaf.grad is None

    @pytest.mark.parametrize('remove_center', [False, True])
    @pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-11), (torch.float32, 1e-5)])
    def test_softmax_inside_is_softmax_before(self, dtype, tolerance, remove_center, device):
        kernel_size = (3, 5)
        (input, offset, mask), options = make_inputs(
            kernel_size=kernel_size, remove_center=remove_center, dtype=dtype, device=device
        )
        logits = (mask.detach() * 4 - 3).requires_grad_()

        def separate(input, offset, logits, groups, **rest):
            return dcnv3(
                input, offset, logits.unflatten(-1, (groups, -1)).softmax(-1).flatten(-2), groups=groups, **rest
            )

        fused = run(dcnv3, (input, offset, logits), {**options, 'softmax': True})
        assert_same(fused, run(separate, (input, offset, logits), options), tolerance)

    def test_softmax_of_extreme_logits(self, device):
        """One logit far above the others takes all the weight; none overflows."""
        (input, offset, _), options = make_inputs(kernel_size=(3, 3), groups=3, dtype=torch.float32, device=device)
        logits = torch.full((2, *offset.shape[1:3], 27), -1e4, device=device)
        logits[..., 4::9] = 1e4
        chosen = torch.zeros_like(logits)
        chosen[..., 4::9] = 1
        output = dcnv3(input, offset, logits, **{**options, 'softmax': True})
        assert torch.equal(output, dcnv3(input, offset, chosen, **options))
        logits[0, 0, 0, 0] = math.nan  # the first group of one pixel
        nan = dcnv3(input, offset, logits, **{**options, 'softmax': True}).isnan()
        assert nan[0, 0, 0, :5].all() and nan.sum() == 5

    def test_slices_of_one_tensor(self, device):
        """Offset and mask as one linear layer would predict them."""
        (input, offset, mask), options = make_inputs(device=device)
        both = torch.cat([mask, offset, mask], dim=-1).detach()
        points = mask.shape[-1]
        slices = both[..., points : 3 * points], both[..., 3 * points :]
        expected = run(dcnv3, (input, offset, mask), options)
        assert_same(run(dcnv3, (input, *slices), options), expected, 0)
        # A slice of the pixels is another matter: their distances are not even.
        wide = torch.stack([offset, offset], dim=3).flatten(2, 3).detach()[:, :, ::2]
        assert_same(run(dcnv3, (input, wide, mask), options), expected, 0)

    def test_groups_are_independent(self, device):
        (input, offset, mask), options = make_inputs(groups=3, device=device)
        whole = dcnv3(input, offset, mask, **options)
        for g in range(3):
            one = [t.chunk(3, dim=-1)[g] for t in (input, offset, mask)]
            torch.testing.assert_close(dcnv3(*one, **{**options, 'groups': 1}), whole.chunk(3, dim=-1)[g])


class TestUnusualPositions:
    @pytest.mark.parametrize('far', [1e4, 1e30, math.inf, -math.inf])
    def test_far_points_contribute_nothing(self, far, device):
        (input, offset, mask), options = make_inputs(dtype=torch.float32, device=device)
        offset = torch.full_like(offset, far)
        output, *gradients = run(dcnv3, (input, offset, mask), options)
        assert output.count_nonzero() == 0
        assert all(g.count_nonzero() == 0 for g in gradients)
        # Not even where the mask is NaN: the point is not read.
        assert dcnv3(input, offset, torch.full_like(mask, math.nan), **options).count_nonzero() == 0

    @pytest.mark.parametrize('op', [dcnv3, reference.dcnv3], ids=['compiled', 'reference'])
    def test_nan_position_makes_its_group_and_pixel_nan(self, op, device):
        (input, offset, mask), options = make_inputs(groups=3, group_channels=5, dtype=torch.float32, device=device)
        offset = offset.detach().clone()
        offset.view(*offset.shape[:3], 3, -1)[1, 2, 3, 1, 4] = math.nan
        nan = op(input, offset, mask, **options).isnan()
        expected = torch.zeros_like(nan)
        expected[1, 2, 3, 5:10] = True
        assert torch.equal(nan, expected)

    @pytest.mark.parametrize('op', [dcnv3, reference.dcnv3], ids=['compiled', 'reference'])
    def test_nan_pixel_spreads_to_where_it_is_read(self, op, device):
        input = torch.zeros(1, 5, 5, 2, device=device)
        input[0, 2, 2, 1] = math.nan
        offset, mask = torch.zeros(1, 5, 5, 18, device=device), torch.ones(1, 5, 5, 9, device=device)
        nan = op(input, offset, mask, groups=1).isnan()
        assert not nan[..., 0].any()
        # On whole pixels each of the 9 points reads its own pixel and those right of and below it.
        assert nan[0, :, :, 1].nonzero().tolist() == [[y, x] for y in range(4) for x in range(4)]

    def test_nan_offset_does_not_reach_the_gradient_of_the_input(self, device):
        (input, offset, mask), options = make_inputs(dtype=torch.float32, device=device)
        offset = offset.detach().clone()
        offset[0, 1, 1, 0] = math.nan
        _, grad_input, grad_offset, grad_mask = run(dcnv3, (input, offset, mask), options)
        assert grad_input.isfinite().all()
        assert grad_offset[0, 1, 1, :2].isnan().all() and grad_offset.isnan().sum() == 2
        assert grad_mask[0, 1, 1, 0].isnan() and grad_mask.isnan().sum() == 1


class TestPyTorch:
    """Everything PyTorch asks of an operator."""

    @pytest.mark.parametrize('remove_center', [False, True])
    def test_gradcheck(self, remove_center, device):
        kernel_size = (3, 3) if remove_center else (3, 2)
        tensors, options = make_inputs(
            batch=1, size=(4, 5), kernel_size=kernel_size, group_channels=2, groups=2, remove_center=remove_center,
            device=device,
        )  # fmt: skip
        assert torch.autograd.gradcheck(lambda *t: dcnv3(*t, **options), tensors)

    def test_opcheck(self, device):
        for dtype in (torch.float32, torch.bfloat16):
            tensors, options = make_inputs(dtype=dtype, device=device)
            torch.library.opcheck(torch.ops.ops_dcnv3.dcnv3.default, (*tensors, *options.values()))
            detached = [t.detach() for t in tensors]
            grad_output = torch.randn_like(dcnv3(*detached, **options))
            for wanted in ([True, True, True], [False, True, False]):
                torch.library.opcheck(
                    torch.ops.ops_dcnv3.dcnv3_backward.default, (grad_output, *detached, *options.values(), wanted)
                )

    def test_compiles_without_graph_break(self, device):
        tensors, options = make_inputs(dtype=torch.float32, device=device)
        compiled = torch.compile(lambda *t: dcnv3(*t, **options), fullgraph=True, backend='aot_eager')
        assert_same(run(compiled, tensors, {}), run(dcnv3, tensors, options), 0)

    def test_autocast(self, device):
        (input, offset, mask), options = make_inputs(dtype=torch.float32, device=device)
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast(device.type, dtype):
                output = dcnv3(input, offset, mask.to(dtype), **options)
            assert output.dtype == dtype
            assert torch.equal(output, dcnv3(input.to(dtype), offset.to(dtype), mask.to(dtype), **options))
        with torch.autocast(device.type, torch.bfloat16):
            assert dcnv3(input.double(), offset.double(), mask.double(), **options).dtype == torch.float64

    def test_meta_device_gives_the_shape(self):
        tensors, options = make_inputs()
        output = dcnv3(*(t.to('meta') for t in tensors), **options)
        assert output.shape == dcnv3(*tensors, **options).shape and output.device.type == 'meta'

    @pytest.mark.parametrize(
        'shape',
        [dict(batch=3, size=(20, 30), groups=5), dict(batch=1, size=(12, 700), groups=15, group_channels=4)],
        ids=['narrow', 'wide'],
    )
    def test_gradients_do_not_depend_on_threads(self, shape):
        tensors, options = make_inputs(**shape, dtype=torch.float32)
        before = torch.get_num_threads()
        try:
            results = []
            for threads in (1, 2, 3, 4, 15):
                torch.set_num_threads(threads)
                results.append(run(dcnv3, tensors, options))
        finally:
            torch.set_num_threads(before)
        for result in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))

    def test_gradients_are_the_same_every_time(self, device):
        tensors, options = make_inputs(batch=2, size=(20, 30), groups=3, dtype=torch.float32, device=device)
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            results = [run(dcnv3, tensors, options) for _ in range(20)]
        finally:
            torch.use_deterministic_algorithms(deterministic)
        for result in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))

    @pytest.mark.slow
    def test_more_elements_than_32_bits_count(self):
        """11 GB: the last rows of a very large image against the same rows as an image of their own."""
        height, width, channels = 70000, 512, 64  # 2^31.09 elements
        generator = torch.Generator().manual_seed(0)
        input = torch.zeros(1, height, width, channels, dtype=torch.bfloat16)
        input[:, -40:] = torch.randn(1, 40, width, channels, generator=generator)
        offset = torch.zeros(1, height, width, 18, dtype=torch.bfloat16)
        # Beyond row 65536 a float32 position has 7 bits left for the fraction.
        offset[:, -40:] = (torch.randn(1, 40, width, 18, generator=generator) * 64).round() / 64
        mask = torch.rand(1, 1, width, 9, generator=generator).bfloat16().expand(1, height, width, 9)
        output = dcnv3(input, offset, mask, groups=1)
        # Rows 20 and on of the slice read nothing above it.
        last = dcnv3(input[:, -40:], offset[:, -40:], mask[:, -40:], groups=1)
        torch.testing.assert_close(output[:, -20:], last[:, -20:], rtol=1e-2, atol=1e-2)
        assert last[:, -20:].count_nonzero() > 0


class TestErrors:
    """Every error names the rule and the value received."""

    @pytest.mark.parametrize(
        'change, error, message',
        [
            (dict(groups=2), ValueError, r'divisible by groups, got 15 and 2'),
            (dict(groups=0), ValueError, r'groups must be a positive int, got 0'),
            (dict(groups=1.5), ValueError, r'groups must be a positive int, got 1.5'),
            (dict(groups=True), ValueError, r'groups must be a positive int, got True'),
            (dict(stride=(1, True)), ValueError, r'stride must be .* got \(1, True\)'),
            (dict(padding=2**62, dilation=2**62), ValueError, r'padding must be at most 2147483647, got 46116860'),
            (dict(offset_scale=True), ValueError, r'offset_scale must be a finite number, got True'),
            (dict(kernel_size=(3, 3)), ValueError, r'offset must be .* = \(2, 4, 6, 54\).* got \(2, 4, 8, 36\)'),
            (dict(kernel_size=0), ValueError, r'kernel_size must be .* at least 1, got 0'),
            (dict(kernel_size=(3, 2, 1)), ValueError, r'kernel_size must be .*got \(3, 2, 1\)'),
            (dict(stride=-1), ValueError, r'stride must be .* at least 1, got -1'),
            (dict(padding=(1, -1)), ValueError, r'padding must be .* at least 0, got \(1, -1\)'),
            (dict(dilation=2.0), ValueError, r'dilation must be .* got 2.0'),
            (dict(dilation=9), ValueError, r'must fit into the padded input, got height and width \(7, 10\)'),
            (dict(offset_scale=math.nan), ValueError, r'offset_scale must be a finite number, got nan'),
            (dict(offset_scale='1'), ValueError, r"offset_scale must be a finite number, got '1'"),
            (dict(remove_center=True), ValueError, r'odd kernel_size larger than 1.* got \(3, 2\)'),
        ],
    )
    def test_arguments(self, change, error, message):
        tensors, options = make_inputs()
        with pytest.raises(error, match=message):
            dcnv3(*tensors, **{**options, **change})

    @pytest.mark.parametrize(
        'position, replace, error, message',
        [
            (
                0,
                lambda t: t[:, :, :0],
                ValueError,
                r'height and width of input must be at least 1, got shape \(2, 7, 0, 15\)',
            ),
            (0, lambda t: t[0], ValueError, r'input must have 4 dimensions .* got shape \(7, 10, 15\)'),
            (1, lambda t: t[:1], ValueError, r'offset must be .* = \(2, 4, 8, 36\).* got \(1, 4, 8, 36\)'),
            (2, lambda t: t[..., :-1], ValueError, r'mask must be .* = \(2, 4, 8, 18\).* got \(2, 4, 8, 17\)'),
            (1, lambda t: t.float(), TypeError, r'one dtype, got torch.float64, torch.float32 and torch.float64'),
            (0, lambda t: t.long(), TypeError, r'input must be float32.* got torch.int64'),
            (2, lambda t: t.to('meta'), ValueError, r'mask must be on the device of input, cpu, got meta'),
            (2, lambda t: None, TypeError, r'mask must be a tensor, got NoneType'),
        ],
    )
    def test_tensors(self, position, replace, error, message):
        tensors, options = make_inputs()
        tensors = [t.detach() for t in tensors]
        tensors[position] = replace(tensors[position])
        with pytest.raises(error, match=message):
            dcnv3(*tensors, **options)

    def test_the_raw_operator_stays_inside_its_tensors(self):
        tensors, options = make_inputs()
        short = [t.detach()[..., :-1] for t in tensors]
        op = torch.ops.ops_dcnv3.dcnv3
        for position in (1, 2):
            broken = [t.detach() for t in tensors]
            broken[position] = short[position]
            with pytest.raises(RuntimeError, match='must be'):
                op(*broken, *options.values())
        with pytest.raises(RuntimeError, match='grad_output must have the shape'):
            torch.ops.ops_dcnv3.dcnv3_backward(
                short[0], *(t.detach() for t in tensors), *options.values(), [True, True, True]
            )


@pytest.mark.skipif(not os.path.isdir('/proc/self/task'), reason='threads are counted in /proc')
def test_all_threads_work():
    """Built without OpenMP, ATen's parallel loops run on one thread and say nothing."""
    script = """
import os
import torch
from ops_dcnv3 import dcnv3

tensors = torch.zeros(1, 64, 64, 64), torch.zeros(1, 64, 64, 72), torch.zeros(1, 64, 64, 36)
torch.set_num_threads(3)  # nothing has used them before the operator
before = len(os.listdir('/proc/self/task'))
dcnv3(*tensors, groups=4)
print(len(os.listdir('/proc/self/task')) - before)
"""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '2'


def test_imports_by_itself():
    """Without torch having been imported before, whose libraries ours needs."""
    done = subprocess.run([sys.executable, '-c', 'from ops_dcnv3 import DCNv3'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('capability', ['default', 'avx2'])
def test_every_instruction_set_of_this_machine(capability):
    """The kernels that a lesser processor would take, in a process of their own: the choice is made once."""
    script = """
import torch
import torch.nn.functional as F
from ops_dcnv3 import dcnv3, reference

print(torch.ops.ops_dcnv3.cpu_capability())
torch.manual_seed(0)
for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)):
    for channels in (1, 4, 7, 16, 24, 48):
        tensors = [torch.randn(2, 5, 6, n).to(dtype).requires_grad_() for n in (2 * channels, 36, 18)]
        exact = [t.detach().double().requires_grad_() for t in tensors]
        outputs = dcnv3(*tensors, groups=2), reference.dcnv3(*exact, groups=2)
        gradients = torch.autograd.grad(outputs[0].sum(), tensors), torch.autograd.grad(outputs[1].sum(), exact)
        for a, b in zip((outputs[0], *gradients[0]), (outputs[1], *gradients[1])):
            assert (a.double() - b).abs().max() <= tolerance * b.abs().max(), (dtype, channels)
        logits = tensors[2].detach() * 40
        inside = dcnv3(*tensors[:2], logits, groups=2, softmax=True)
        before = reference.dcnv3(*exact[:2], logits.double(), groups=2, softmax=True)
        assert (inside.double() - before).abs().max() <= tolerance * before.abs().max(), (dtype, channels)
        x, rows = torch.randn(2, 5, 19, channels).to(dtype), torch.randn(12, channels).to(dtype)
        weight = rows[:9].T.reshape(channels, 1, 3, 3)
        fused = torch.ops.ops_dcnv3.depthwise_norm_gelu(x, weight, *rows[9:], 0.1, (1, 1), (1, 1))
        steps = F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), rows[9].double(), padding=1, groups=channels)
        steps = F.gelu(F.layer_norm(steps.permute(0, 2, 3, 1), (channels,), rows[10].double(), rows[11].double(), 0.1))
        assert (fused.double() - steps).abs().max() <= tolerance * steps.abs().max(), (dtype, channels)
"""
    environment = {**os.environ, 'ATEN_CPU_CAPABILITY': capability}
    done = subprocess.run([sys.executable, '-c', script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ('portable', 'AVX2' if capability == 'avx2' else 'portable')
