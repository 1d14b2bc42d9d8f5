"""The CUDA kernels of dcnv3 without a GPU: compiled with g++ and run thread by thread, see cuda_emulation/.

What this shows is the arithmetic, every address (AddressSanitizer watches them) and the barriers; what it cannot show
is speed, and whatever depends on threads really running at once.
"""

import importlib.util
import itertools
import math
import struct
import subprocess
from pathlib import Path

import pytest
import torch
from property_tests import given, settings, st

ROOT = Path(__file__).parents[2]
TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
# Half a unit in the last place, of the 16-bit types alone: what storing a result costs.
ROUNDING = {torch.float32: 0, torch.float64: 0, torch.float16: 2**-11, torch.bfloat16: 2**-8}
# What sums in float or double cost, by the largest number of a tensor.
SUMS = {torch.float32: 2e-6, torch.float64: 1e-14, torch.float16: 2e-6, torch.bfloat16: 2e-6}
INVALID_CONFIGURATION = 2

# By path: these tests need no build of the package.
_spec = importlib.util.spec_from_file_location('reference', ROOT / 'ops_dcnv3' / 'reference.py')
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


@pytest.fixture(scope='session')
def emulate(build_emulation):
    """A function that runs one kernel call: the output, or with grad_output the three gradients, and the error code."""

    def emulate(
        tensors,
        options,
        grad_output=None,
        wanted=(True, True, True),
        softmax=False,
        deterministic=False,
        max_blocks=2**31 - 1,
        shift=0,
        architecture=900,
        error=0,
    ):
        input, offset, mask = tensors
        dtype, sum_dtype = input.dtype, torch.promote_types(input.dtype, torch.float32)
        backward = grad_output is not None
        groups, kernel_size = options['groups'], options['kernel_size']
        pairs = [options[name] for name in ('kernel_size', 'stride', 'padding', 'dilation')]
        points = kernel_size[0] * kernel_size[1] - options['remove_center']
        header = [0, backward, deterministic, TYPES[dtype], max_blocks, shift, *input.shape[:3], *offset.shape[1:3]]
        header += [groups, input.shape[3] // groups, points, *(value for pair in pairs for value in pair)]
        header += [offset.stride(2), mask.stride(2), options['remove_center'], softmax]
        call = [struct.pack(f'{len(header)}qd', *header, options['offset_scale'])]
        for tensor in (*tensors, grad_output)[: 4 if backward else 3]:
            size = tensor.numel() and 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
            memory = tensor.as_strided((size,), (1,)).contiguous().view(torch.uint8).numpy().tobytes()
            call += [struct.pack('q', len(memory)), memory]
        if backward:
            results = [(input.shape, sum_dtype), (offset.shape, dtype), (mask.shape, dtype)]
            results = [result if want else None for result, want in zip(results, wanted, strict=True)]
        else:
            results = [((*offset.shape[:3], input.shape[3]), dtype)]
        sizes = [result and math.prod(result[0]) * result[1].itemsize for result in results]
        call += [struct.pack('q', size or 0) for size in sizes]

        done = subprocess.run([build_emulation(architecture)], input=b''.join(call), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        code, emulate.max_points = struct.unpack_from('2q', done.stdout)
        assert code == error
        start, unpacked = 16, []
        for result, size in zip(results, sizes, strict=True):
            memory = bytearray(done.stdout[start : start + (size or 0)])
            start += size or 0
            if result:
                shape, kind = result
                unpacked.append(torch.frombuffer(memory, dtype=kind).reshape(shape) if size else torch.empty(shape))
            else:
                unpacked.append(None)
        assert start == len(done.stdout)
        return unpacked

    return emulate


def make_inputs(
    batch=2,
    size=(5, 8),
    kernel_size=(3, 2),
    stride=(2, 1),
    padding=(1, 0),
    dilation=(1, 2),
    groups=3,
    group_channels=5,
    offset_scale=1.5,
    remove_center=False,
    dtype=torch.float32,
    spread=1.5,
    seed=0,
):
    """Input, offset, mask; gradient of the output; keyword arguments. No number is like its neighbour.

    Positions are exact in float, so that they are the same for kernels and specification.
    """
    generator = torch.Generator().manual_seed(seed)
    out_size = [(size[i] + 2 * padding[i] - dilation[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    points = groups * (kernel_size[0] * kernel_size[1] - remove_center)
    channels = (groups * group_channels, points * 2, points, groups * group_channels)
    shapes = [(batch, *(size if i == 0 else out_size), channels[i]) for i in range(4)]
    *tensors, grad_output = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    tensors[1] = (tensors[1] * spread * 256).round() / 256
    options = dict(
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        offset_scale=offset_scale,
        remove_center=remove_center,
    )
    return [t.to(dtype) for t in tensors], grad_output.to(dtype), options


def specify(tensors, grad_output, options, softmax):
    """Output and gradients in double precision, by the specification and autograd."""
    leaves = [t.double().requires_grad_() for t in tensors]
    input, offset, mask = leaves
    if softmax:
        mask = mask.unflatten(-1, (options['groups'], -1)).softmax(-1).flatten(-2)
    output = reference.dcnv3(input, offset, mask, **options)
    return output.detach(), *torch.autograd.grad(output, leaves, grad_output.double())


def assert_close(actual, expected, dtype):
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return
    # A result may have been summed up from terms much larger than itself, but not than the largest of a tensor.
    allowed = SUMS[dtype] * max(1, expected.abs().max()) + (ROUNDING[actual.dtype] * expected.abs())
    error = (actual.double() - expected).abs()
    assert (error <= allowed).all(), f'largest error {error.max():.3g} where {expected.abs().max():.3g} is the largest'


def check(emulate, inputs, softmax=False, **how):
    """Output and gradients of the kernels against the specification."""
    tensors, grad_output, options = inputs
    expected = specify(tensors, grad_output, options, softmax)
    forward_how = {key: value for key, value in how.items() if key != 'deterministic'}
    actual = emulate(tensors, options, softmax=softmax, **forward_how)
    actual += emulate(tensors, options, grad_output, softmax=softmax, **how)
    for name, a, e in zip(('output', 'grad input', 'grad offset', 'grad mask'), actual, expected, strict=True):
        try:
            assert_close(a, e, tensors[0].dtype)
        except AssertionError as error:
            raise AssertionError(f'{name}: {error}') from None
    return actual


@pytest.mark.parametrize('softmax', [False, True])
@pytest.mark.parametrize('group_channels', [1, 5, 8, 16, 32, 33, 100])
@pytest.mark.parametrize('dtype', TYPES)
def test_types_and_channels(emulate, dtype, group_channels, softmax):
    batch = 2 if group_channels <= 16 else 1  # for speed
    check(emulate, make_inputs(batch, dtype=dtype, group_channels=group_channels), softmax)


@pytest.mark.parametrize('softmax', [False, True])
@pytest.mark.parametrize(
    'geometry',
    [
        dict(kernel_size=(3, 3), remove_center=True),
        dict(kernel_size=(3, 5), padding=(0, 3), dilation=(2, 1), remove_center=True, groups=1),
        dict(kernel_size=(1, 1), padding=(0, 0)),
        dict(kernel_size=(2, 4), stride=(1, 3), padding=(2, 3), offset_scale=0.5),
        dict(size=(1, 1), padding=(3, 4), spread=4),
        dict(spread=20),  # most points outside
        dict(spread=0, offset_scale=1.0),  # on whole pixels
        dict(group_channels=300, groups=2, size=(5, 4)),  # several vectors per lane
    ],
    ids=str,
)
def test_geometry(emulate, geometry, softmax):
    check(emulate, make_inputs(dtype=torch.float64, **geometry), softmax)


@pytest.mark.parametrize('dtype, group_channels', [(torch.float32, 16), (torch.float64, 8), (torch.bfloat16, 8)])
def test_large_window(emulate, dtype, group_channels):
    """Shared memory, not the number of threads, limits the pairs of a block, which then ends in half a warp."""
    inputs = make_inputs(
        batch=1,
        size=(6, 7),
        kernel_size=(7, 7),
        padding=(3, 3),
        dilation=(1, 1),
        group_channels=group_channels,
        dtype=dtype,
    )
    check(emulate, inputs, softmax=True)


@pytest.mark.parametrize('dtype, most', [(torch.float32, 35), (torch.float64, 27)])
def test_largest_window(emulate, dtype, most):
    inputs = lambda size: make_inputs(  # noqa: E731
        1, (size, size + 1), (size, size), (1, 1), (0, 0), (1, 1), groups=1, group_channels=3, dtype=dtype
    )
    check(emulate, inputs(most))
    assert most**2 <= emulate.max_points < (most + 1) ** 2
    tensors, grad_output, options = inputs(most + 1)
    emulate(tensors, options, error=INVALID_CONFIGURATION)
    emulate(tensors, options, grad_output, error=INVALID_CONFIGURATION)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_geometry(emulate, data):
    draw = data.draw
    pair = lambda least, most: st.tuples(st.integers(least, most), st.integers(least, most))  # noqa: E731
    kernel_size = draw(pair(1, 4))
    dilation, padding = draw(pair(1, 3)), draw(pair(0, 3))
    least = [max(1, dilation[i] * (kernel_size[i] - 1) + 1 - 2 * padding[i]) for i in (0, 1)]
    odd = kernel_size[0] % 2 == kernel_size[1] % 2 == 1 and kernel_size != (1, 1)
    inputs = make_inputs(
        batch=draw(st.integers(1, 3)),
        size=tuple(draw(st.integers(n, n + 5)) for n in least),
        kernel_size=kernel_size,
        stride=draw(pair(1, 3)),
        padding=padding,
        dilation=dilation,
        groups=draw(st.integers(1, 5)),
        group_channels=draw(st.integers(1, 40)),
        offset_scale=draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
        remove_center=odd and draw(st.booleans()),
        dtype=torch.float64,
        spread=draw(st.sampled_from([0.0, 1.0, 10.0])),
        seed=draw(st.integers(0, 2**31)),
    )
    check(
        emulate,
        inputs,
        softmax=draw(st.booleans()),
        deterministic=draw(st.booleans()),
        max_blocks=draw(st.sampled_from([1, 2, 2**31 - 1])),
    )


@pytest.mark.parametrize('softmax', [False, True])
@pytest.mark.parametrize('dtype, group_channels', [(torch.float32, 16), (torch.float16, 8)])
def test_slices_of_a_wider_tensor(emulate, dtype, group_channels, softmax):
    (input, offset, mask), grad_output, options = make_inputs(dtype=dtype, group_channels=group_channels)
    whole = torch.full((*offset.shape[:3], 1 + offset.shape[3] + 2 + mask.shape[3]), math.nan, dtype=dtype)
    start, end = 1 + offset.shape[3] + 2, whole.shape[3]
    whole[..., 1 : start - 2], whole[..., start:] = offset, mask
    tensors = [input, whole[..., 1 : start - 2], whole[..., start:end]]
    assert tensors[1].stride(2) == tensors[2].stride(2) == end
    check(emulate, (tensors, grad_output, options), softmax)


@pytest.mark.parametrize('dtype, group_channels', [(torch.float32, 8), (torch.float64, 8), (torch.bfloat16, 8)])
def test_inputs_that_vectors_do_not_fit(emulate, dtype, group_channels):
    check(emulate, make_inputs(dtype=dtype, group_channels=group_channels), shift=dtype.itemsize)


@pytest.mark.slow  # compiles the emulation once more
@pytest.mark.parametrize('dtype, group_channels', [(torch.float32, 16), (torch.float16, 16), (torch.float32, 5)])
def test_without_vector_atomics(emulate, dtype, group_channels):
    check(emulate, make_inputs(dtype=dtype, group_channels=group_channels), architecture=800)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_16_bit_types_of_the_emulation(emulate, dtype):
    """The header takes the place of CUDA's types: any product of two finite numbers, rounded as in torch."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (2, 1, 1, 1, 5000), dtype=torch.int16, generator=generator).view(dtype)
    input, mask = bits.where(bits.isfinite(), 1)
    options = make_inputs(groups=5000)[2] | dict(kernel_size=(1, 1), stride=(1, 1), padding=(0, 0))
    (output,) = emulate((input, torch.zeros(1, 1, 1, 10000, dtype=dtype), mask), options)
    assert torch.equal(output, (input.float() * mask.float()).to(dtype))


class TestUnusualPositions:
    @pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize('far', [1e4, 1e30, math.inf, -math.inf])
    def test_far_points_contribute_nothing(self, emulate, far, dtype):
        (input, offset, mask), grad_output, options = make_inputs(dtype=dtype)
        offset = torch.full_like(offset, far)
        # Not even where the mask is NaN: the point is not read.
        for modulation in (mask, torch.full_like(mask, math.nan)):
            (output,) = emulate((input, offset, modulation), options)
            gradients = emulate((input, offset, modulation), options, grad_output)
            assert all(t.count_nonzero() == 0 for t in (output, *gradients))

    def test_opposite_infinities_are_far(self, emulate):
        (input, offset, mask), _, options = make_inputs()
        offset = torch.tensor([math.inf, -math.inf]).repeat(offset.shape[3] // 2).expand(offset.shape).contiguous()
        assert emulate((input, offset, mask), options)[0].count_nonzero() == 0

    @pytest.mark.parametrize('softmax', [False, True])
    @pytest.mark.parametrize('axis', [0, 1])
    def test_nan(self, emulate, axis, softmax):
        (input, offset, mask), grad_output, options = make_inputs()
        expected = specify((input, offset, mask), grad_output, options, softmax)
        offset[1, 2, 3, 12 + 4 + axis] = math.nan  # group 1, point 2
        (output,) = emulate((input, offset, mask), options, softmax=softmax)
        grad_input, *gradients = emulate((input, offset, mask), options, grad_output, softmax=softmax)
        assert grad_input.isfinite().all()
        # The group and pixel of the output, both numbers of the offset, the mask: with softmax of the whole group.
        nan = [(output, 5, 10), (gradients[0], 16, 18), (gradients[1], *((6, 12) if softmax else (8, 9)))]
        for (tensor, begin, end), exact in zip(nan, (expected[0], *expected[2:]), strict=True):
            there = torch.zeros(tensor.shape, dtype=torch.bool)
            there[1, 2, 3, begin:end] = True
            assert torch.equal(tensor.isnan(), there)
            assert_close(tensor[~there], exact[~there], tensor.dtype)

    @pytest.mark.parametrize('deterministic', [False, True])
    def test_nan_pixel_spreads_to_where_it_is_read(self, emulate, deterministic):
        options = make_inputs()[2] | dict(kernel_size=(1, 1), stride=(1, 1), padding=(0, 0), groups=1)
        input, offset, mask = torch.zeros(1, 3, 4, 1), torch.zeros(1, 3, 4, 2), torch.ones(1, 3, 4, 1)
        input[0, 1, 2] = math.nan
        offset[..., 0] = 0.5
        (output,) = emulate((input, offset, mask), options | dict(offset_scale=1.0))
        # Half a pixel to the right, and on the line between rows: row 0 reads row 1 with weight 0.
        assert output[0, ..., 0].isnan().nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
        # A gradient reaches the pixels with a weight: columns 2 and 3.
        grad_output = torch.zeros(1, 3, 4, 1)
        grad_output[0, 1, 2] = math.inf
        grad_input = emulate(
            (input, offset, mask), options | dict(offset_scale=1.0), grad_output, deterministic=deterministic
        )[0]
        assert grad_input[0, ..., 0].nonzero().tolist() == [[1, 2], [1, 3]]


class TestSoftmax:
    def test_large_logits(self, emulate):
        tensors, grad_output, options = make_inputs()
        tensors[2] = tensors[2] * 200  # exp would overflow
        check(emulate, (tensors, grad_output, options), softmax=True)

    def test_minus_infinity_is_weight_zero(self, emulate):
        tensors, grad_output, options = make_inputs()
        tensors[2][..., 3] = -math.inf
        gradients = check(emulate, (tensors, grad_output, options), softmax=True)
        assert gradients[3][..., 3].count_nonzero() == 0

    def test_points_outside_take_part(self, emulate):
        """Their value is 0, but their weight is missing from the others'."""
        tensors, grad_output, options = make_inputs(spread=0.3)
        tensors[1][..., 4] = 1e6
        _, _, _, grad_mask = check(emulate, (tensors, grad_output, options), softmax=True)
        assert grad_mask[..., 2].count_nonzero() > 0


class TestLaunch:
    @pytest.mark.parametrize('max_blocks', [1, 2])
    def test_blocks_take_more_than_one_turn(self, emulate, max_blocks):
        tensors, grad_output, options = make_inputs(batch=3, group_channels=16)
        for softmax in (False, True):
            everything = check(emulate, (tensors, grad_output, options), softmax)
            few = check(emulate, (tensors, grad_output, options), softmax, max_blocks=max_blocks)
            # All but the sum by atomics is the same number.
            assert all(torch.equal(a, b) for i, (a, b) in enumerate(zip(everything, few, strict=True)) if i != 1)

    def test_empty_batch(self, emulate):
        tensors, grad_output, options = make_inputs(batch=0)
        check(emulate, (tensors, grad_output, options))
        check(emulate, (tensors, grad_output, options), deterministic=True)

    @pytest.mark.parametrize('size', [(0, 6), (6, 0)])
    def test_empty_image(self, emulate, size):
        tensors, grad_output, options = make_inputs(size=size, padding=(3, 3), dilation=(1, 1), spread=5)
        results = emulate(tensors, options)
        for deterministic in (False, True):
            results += emulate(tensors, options, grad_output, deterministic=deterministic)
        assert results[0].numel() > 0 and all(t.count_nonzero() == 0 for t in results)

    @pytest.mark.parametrize('softmax', [False, True])
    @pytest.mark.parametrize('deterministic', [False, True])
    def test_only_the_gradients_that_are_asked_for(self, emulate, softmax, deterministic):
        tensors, grad_output, options = make_inputs(dtype=torch.float64)
        how = dict(softmax=softmax, deterministic=deterministic)
        everything = emulate(tensors, options, grad_output, **how)
        for wanted in itertools.product((False, True), repeat=3):
            some = emulate(tensors, options, grad_output, wanted=wanted, **how)
            for want, a, b in zip(wanted, some, everything, strict=True):
                if want:
                    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
                else:
                    assert a is None


class TestDeterministic:
    @pytest.mark.parametrize('softmax', [False, True])
    @pytest.mark.parametrize('dtype, group_channels', [(torch.float32, 16), (torch.float64, 3), (torch.bfloat16, 8)])
    def test_against_reference(self, emulate, dtype, group_channels, softmax):
        check(emulate, make_inputs(dtype=dtype, group_channels=group_channels), softmax, deterministic=True)

    def test_bands_of_several_rows(self, emulate):
        """So many channels that a thread takes more than one row."""
        inputs = make_inputs(1, (8, 1), (2, 1), (1, 1), (1, 0), (1, 1), groups=2, group_channels=20000)
        check(emulate, inputs, deterministic=True)

    def test_does_not_depend_on_the_order_of_threads(self, emulate):
        """Odd blocks run their threads backwards here, so that one block after another is a different order."""
        tensors, grad_output, options = make_inputs(batch=1, group_channels=16, size=(9, 8), padding=(3, 3))
        results = {
            deterministic: [
                emulate(tensors, options, grad_output, deterministic=deterministic, max_blocks=blocks)[0]
                for blocks in (1, 2**31 - 1)
            ]
            for deterministic in (False, True)
        }
        assert not torch.equal(*results[False])  # or this test would see nothing
        assert torch.equal(*results[True])
