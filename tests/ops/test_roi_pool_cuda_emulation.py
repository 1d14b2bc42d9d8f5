"""The CUDA kernels of RoI pooling without a GPU, as in test_cuda_emulation.py, against the specification."""

import importlib.util
import itertools
import math
import struct
import subprocess
from pathlib import Path

import pytest
import torch
from property_tests import given, settings, st

# By path: these tests need no build of the package.
_path = Path(__file__).parents[2] / 'ops_dcnv3' / 'reference.py'
_spec = importlib.util.spec_from_file_location('reference', _path)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def make_inputs(
    batch=2,
    size=(5, 8),
    rois=4,
    classes=2,
    depth=3,
    output_size=(3, 2),
    sampling_ratio=0,
    position_sensitive=True,
    with_offset=True,
    with_mask=True,
    dtype=torch.float64,
    seed=0,
):
    """Input, rois, offset, mask; gradient of the output; options, in the order of `reference.roi_pool`.

    Numbers are exact in float, so that positions are those of the specification up to rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    make = lambda *shape: (torch.randn(shape, generator=generator, dtype=torch.float64) * 64).round() / 64  # noqa: E731
    maps = math.prod(output_size) if position_sensitive else 1
    corner = make(rois, 2) * 5 + torch.tensor([6.0, 4.0])
    image = torch.randint(0, max(1, batch), (rois, 1), generator=generator).double()
    boxes = torch.cat([image, corner, corner + make(rois, 2).abs() * 9], dim=1)
    tensors = [
        make(batch, classes * depth * maps, *size),
        boxes,
        make(rois, 2 * classes, *output_size) if with_offset else None,
        make(rois, *output_size).abs() if with_mask else None,
    ]
    grad_output = make(rois, classes * depth, *output_size)
    options = (output_size, 0.75, sampling_ratio, 0.5, position_sensitive)
    return [t if t is None else t.to(dtype) for t in tensors], grad_output.to(dtype), options


@pytest.fixture(scope='session')
def emulate(build_emulation):
    """A function that runs one kernel call: the output, or with grad_output the three gradients."""

    def emulate(
        tensors, options, grad_output=None, wanted=(True, True, True), deterministic=False, max_blocks=2**31 - 1
    ):
        input, rois, offset, mask = tensors
        output_size, spatial_scale, sampling_ratio, gamma, position_sensitive = options
        batch, channels, height, width = input.shape
        bins, count = math.prod(output_size), rois.shape[0]
        classes = 1 if offset is None else offset.shape[1] // 2
        maps = bins if position_sensitive else 1
        depth = channels // (classes * maps)
        input = input.reshape(batch, classes, depth, maps, height, width).permute(0, 3, 1, 4, 5, 2)
        given = [input, rois, offset, mask]
        shapes = [(count, bins, classes, depth)]
        backward = grad_output is not None
        if backward:
            given.append(grad_output.reshape(count, classes, depth, bins).permute(0, 3, 1, 2))
            shapes = [input.shape, (count, classes, 2, bins), (count, bins, classes)]
            present = (True, offset is not None, mask is not None)
            shapes = [
                s if want and is_there else None for s, want, is_there in zip(shapes, wanted, present, strict=True)
            ]
        header = [1, input.dtype == torch.float64, backward, deterministic, max_blocks]
        header += [batch, classes, height, width, depth, count, *output_size, sampling_ratio, position_sensitive]
        call = [struct.pack(f'{len(header)}q2d', *header, spatial_scale, gamma)]
        for tensor in given:
            memory = b'' if tensor is None else tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            call += [struct.pack('q', len(memory)), memory]
        sizes = [0 if shape is None else math.prod(shape) * input.dtype.itemsize for shape in shapes]
        call += [struct.pack('q', size) for size in sizes]
        done = subprocess.run([build_emulation(900)], input=b''.join(call), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        assert struct.unpack_from('q', done.stdout) == (0,)
        start, results = 16, []
        for shape, size in zip(shapes, sizes, strict=True):
            memory, start = bytearray(done.stdout[start : start + size]), start + size
            if shape is None:
                results.append(None)
            else:
                flat = torch.frombuffer(memory, dtype=input.dtype) if size else input.new_empty(0)
                results.append(flat.reshape(shape))
        if not backward:
            return results[0].permute(0, 2, 3, 1).reshape(count, classes * depth, *output_size)
        grad_input, grad_offset, grad_mask = results
        if grad_input is not None:
            grad_input = grad_input.permute(0, 2, 5, 1, 3, 4).reshape(batch, channels, height, width)
        if grad_offset is not None:
            grad_offset = grad_offset.reshape(offset.shape)
        if grad_mask is not None:
            grad_mask = grad_mask.sum(-1).reshape(mask.shape)
        return grad_input, grad_offset, grad_mask

    return emulate


def specify(tensors, grad_output, options):
    leaves = [t if t is None or i == 1 else t.detach().requires_grad_() for i, t in enumerate(tensors)]
    output = reference.roi_pool(*leaves, *options)
    by = [leaves[i] for i in (0, 2, 3) if leaves[i] is not None]
    gradients = iter(torch.autograd.grad(output, by, grad_output, allow_unused=True))
    return output.detach(), *(None if leaves[i] is None else next(gradients) for i in (0, 2, 3))


def check(emulate, inputs, **how):
    tensors, grad_output, options = inputs
    expected = specify(tensors, grad_output, options)
    forward_how = {key: value for key, value in how.items() if key != 'deterministic'}
    actual = emulate(tensors, options, **forward_how), *emulate(tensors, options, grad_output, **how)
    tolerance = TOLERANCE[grad_output.dtype]
    for name, a, e in zip(('output', 'grad input', 'grad offset', 'grad mask'), actual, expected, strict=True):
        if e is None:
            assert a is None or not a.any(), name
        else:
            scale = max(1, e.abs().max()) if e.numel() else 1
            torch.testing.assert_close(a, e, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f'{n}: {m}')
    return actual


@pytest.mark.parametrize('deterministic', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('depth', [1, 5, 33, 300])
def test_types_and_channels(emulate, depth, dtype, deterministic):
    batch, classes = (2, 2) if depth < 30 else (1, 1)
    inputs = make_inputs(batch, classes=classes, depth=depth, position_sensitive=depth < 30, dtype=dtype)
    check(emulate, inputs, deterministic=deterministic)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_arguments(emulate, data):
    draw = data.draw
    inputs = make_inputs(
        batch=draw(st.integers(1, 3)),
        size=(draw(st.integers(1, 7)), draw(st.integers(1, 7))),
        rois=draw(st.integers(0, 4)),
        classes=draw(st.integers(1, 3)) if (with_offset := draw(st.booleans())) else 1,
        depth=draw(st.integers(1, 12)),
        output_size=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        sampling_ratio=draw(st.integers(0, 3)),
        position_sensitive=draw(st.booleans()),
        with_offset=with_offset,
        with_mask=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
    )
    how = dict(deterministic=draw(st.booleans()), max_blocks=draw(st.sampled_from([1, 2, 2**31 - 1])))
    check(emulate, inputs, **how)


@pytest.mark.parametrize('deterministic', [False, True])
@pytest.mark.parametrize('index', [-1.0, 2.0, -0.5, 1e30, math.inf, math.nan])
def test_a_roi_of_no_image_reads_nothing(emulate, index, deterministic):
    tensors, grad_output, options = make_inputs()
    whole = check(emulate, (tensors, grad_output, options), deterministic=deterministic)
    tensors[1][1, 0] = index
    tensors[1][2, 0] = index
    tensors[1][2, 3] = math.nan
    output, _, grad_offset, grad_mask = check(emulate, (tensors, grad_output, options), deterministic=deterministic)
    for before, after in ((whole[0], output), (whole[2], grad_offset), (whole[3], grad_mask)):
        assert before[1].count_nonzero() > 0 and after[1:3].count_nonzero() == 0
        assert torch.equal(before[0], after[0])


@pytest.mark.parametrize('deterministic', [False, True])
@pytest.mark.parametrize('coordinate', [math.nan, math.inf, -math.inf])
def test_boxes_that_lie_nowhere(emulate, coordinate, deterministic):
    tensors, grad_output, options = make_inputs()
    tensors[1][1, 4] = coordinate
    output = emulate(tensors, options)
    grad_input, grad_offset, grad_mask = emulate(tensors, options, grad_output, deterministic=deterministic)
    assert grad_input.isfinite().all() and grad_input.any()
    for result in (output, grad_offset, grad_mask):
        assert result[1].isnan().all() and not result[[0, 2, 3]].isnan().any()


def test_a_huge_box_ends(emulate):
    tensors, grad_output, options = make_inputs(rois=1, with_offset=False, depth=1, output_size=(2, 1))
    tensors[1][0, 1:] = torch.tensor([-1e30, -3.0, 1e30, 4.0])
    check(emulate, (tensors, grad_output, options), deterministic=True)


@pytest.mark.parametrize('deterministic', [False, True])
def test_only_the_gradients_that_are_asked_for(emulate, deterministic):
    tensors, grad_output, options = make_inputs()
    everything = emulate(tensors, options, grad_output, deterministic=deterministic)
    for wanted in itertools.product((False, True), repeat=3):
        some = emulate(tensors, options, grad_output, wanted=wanted, deterministic=deterministic)
        for want, a, b in zip(wanted, some, everything, strict=True):
            if want:
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
            else:
                assert a is None


def test_deterministic_does_not_depend_on_the_order_of_threads(emulate):
    """Odd blocks run their threads backwards here, so that one block after another is a different order."""
    tensors, grad_output, options = make_inputs(rois=12, depth=16, position_sensitive=False, dtype=torch.float32)
    grad_output = grad_output / 3  # sums that round
    results = {
        deterministic: [
            emulate(tensors, options, grad_output, deterministic=deterministic, max_blocks=blocks)[0]
            for blocks in (1, 2**31 - 1)
        ]
        for deterministic in (False, True)
    }
    assert not torch.equal(*results[False])  # or this test would see nothing
    assert torch.equal(*results[True])
