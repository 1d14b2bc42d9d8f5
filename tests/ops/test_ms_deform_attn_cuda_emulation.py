"""The CUDA kernels of multi-scale deformable attention without a GPU, as in test_cuda_emulation.py, against the
specification."""

import importlib.util
import itertools
import math
import struct
import subprocess
from pathlib import Path

import pytest
import torch

# By path: these tests need no build of the package.
_path = Path(__file__).parents[2] / 'ops_dcnv3' / 'reference.py'
_spec = importlib.util.spec_from_file_location('reference', _path)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-12, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def make_inputs(
    batch=2, shapes=((4, 5), (2, 3)), queries=6, heads=2, channels=8, points=3, dtype=torch.float64, seed=0
):
    """Shapes and starts of the levels, value, locations, weights; gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    shape, sums = (batch, queries, heads, len(shapes), points), torch.promote_types(dtype, torch.float32)
    sizes = [height * width for height, width in shapes]
    return [
        torch.tensor(shapes),
        torch.tensor([sum(sizes[:i]) for i in range(len(sizes))]),
        make(batch, sum(sizes), heads, channels).to(dtype),
        ((make(*shape, 2) * 0.4 + 0.5) * 256).round().to(sums) / 256,
        make(*shape).to(dtype).to(sums),
        make(batch, queries, heads * channels).to(dtype),
    ]


@pytest.fixture(scope='session')
def emulate(build_emulation):
    """A function that runs one kernel call: the output, or with `backward` the three gradients."""

    def emulate(
        inputs, backward=False, wanted=(True, True, True), deterministic=False, max_blocks=2**31 - 1, shift=0,
        architecture=900,
    ):  # fmt: skip
        shapes, _, value, locations, weights, grad_output = inputs
        batch, pixels, heads, channels = value.shape
        header = [2, backward, deterministic, TYPES.index(value.dtype), max_blocks, shift]
        header += [batch, pixels, locations.shape[1], heads, channels, len(shapes), locations.shape[4]]
        call = [struct.pack(f'{len(header)}q', *header)]
        given = [[*inputs[:2]], [*inputs[2:5], *([grad_output] if backward else [])]]
        results = [(t.shape, locations.dtype) for t in (value, locations, weights)]
        if not backward:
            results = [(grad_output.shape, value.dtype)]
        sizes = [
            math.prod(shape) * dtype.itemsize if want else 0
            for (shape, dtype), want in zip(results, wanted, strict=False)
        ]
        for tensors in given:
            for tensor in tensors:
                memory = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                call += [struct.pack('q', len(memory)), memory]
        call += [struct.pack('q', size) for size in sizes]
        done = subprocess.run([build_emulation(architecture)], input=b''.join(call), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        assert struct.unpack_from('q', done.stdout) == (0,)
        found, start = [], 16
        for (shape, dtype), size in zip(results, sizes, strict=True):
            memory, start = bytearray(done.stdout[start : start + size]), start + size
            found.append(torch.frombuffer(memory, dtype=dtype).reshape(shape) if size else None)
        return found if backward else found[0]

    return emulate


def specify(inputs):
    shapes, starts, value, locations, weights, grad_output = inputs
    leaves = [t.double().requires_grad_() for t in (value, locations, weights)]
    output = reference.ms_deform_attn(leaves[0], shapes, starts, leaves[1], leaves[2])
    return [output.detach(), *torch.autograd.grad(output, leaves, grad_output.double())]


def check(emulate, inputs, **how):
    forward_how = {key: value for key, value in how.items() if key != 'deterministic'}
    actual = [emulate(inputs, **forward_how), *emulate(inputs, backward=True, **how)]
    for name, a, e in zip(('output', 'value', 'locations', 'weights'), actual, specify(inputs), strict=True):
        scale = max(1, e.nan_to_num().abs().max())
        torch.testing.assert_close(
            a.double(), e, rtol=0, atol=TOLERANCE[inputs[2].dtype] * scale, equal_nan=True,
            msg=lambda m, n=name: f'{n}: {m}',
        )  # fmt: skip
    return actual


@pytest.mark.parametrize('deterministic', [False, True])
@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('channels', [1, 5, 8, 32, 300])
def test_types_and_channels(emulate, channels, dtype, deterministic):
    check(emulate, make_inputs(channels=channels, dtype=dtype, queries=3), deterministic=deterministic)


@pytest.mark.parametrize('max_blocks', [1, 2])
def test_blocks_that_work_more_than_once(emulate, max_blocks):
    check(emulate, make_inputs(queries=37, heads=5, dtype=torch.float32), max_blocks=max_blocks)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_tensors_off_their_alignment(emulate, dtype):
    check(emulate, make_inputs(dtype=dtype), shift=8)


@pytest.mark.slow  # compiles the emulation once more
def test_without_vector_atomics(emulate):
    check(emulate, make_inputs(channels=16, dtype=torch.float32), architecture=800)


@pytest.mark.parametrize('far', [math.inf, -math.inf, 1e30, math.nan])
def test_locations_nowhere(emulate, far):
    inputs = make_inputs()
    inputs[3][1, 4, 1, 0, 1, 0] = far
    output = check(emulate, inputs)[0]
    assert output[1, 4, 8:].isnan().all() == math.isnan(far) and not output[1, 4, :8].isnan().any()


@pytest.mark.parametrize('level', [(0, 3, 20), (2, 3, -1), (2, 3, 21), (2**31, 2**31, 20), (2**62, 4, 20), (2, -3, 20)])
def test_a_level_that_does_not_lie_inside_the_value_is_nan(emulate, level):
    """The kernels cannot say more; and they must not read there."""
    inputs = make_inputs()
    inputs[0][1], inputs[1][1] = torch.tensor(level[:2]), level[2]
    assert emulate(inputs).isnan().all()
    for deterministic in (False, True):
        grad_value, grad_locations, grad_weights = emulate(inputs, backward=True, deterministic=deterministic)
        assert not grad_value.isnan().any() and not grad_value[:, 20:].any()
        for gradient in (grad_locations, grad_weights):
            assert gradient[:, :, :, 1].isnan().all() and gradient[:, :, :, 0].isfinite().all()


@pytest.mark.parametrize('deterministic', [False, True])
def test_only_the_gradients_that_are_asked_for(emulate, deterministic):
    inputs = make_inputs()
    everything = emulate(inputs, backward=True, deterministic=deterministic)
    for wanted in itertools.product((False, True), repeat=3):
        some = emulate(inputs, backward=True, wanted=wanted, deterministic=deterministic)
        for want, a, b in zip(wanted, some, everything, strict=True):
            if want:
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
            else:
                assert a is None


def test_deterministic_does_not_depend_on_the_order_of_threads(emulate):
    """Odd blocks run their threads backwards here, so that one block after another is a different order."""
    inputs = make_inputs(queries=40, channels=16, dtype=torch.float32)
    inputs[5] = inputs[5] / 3  # sums that round
    results = {
        deterministic: [
            emulate(inputs, backward=True, deterministic=deterministic, max_blocks=blocks)[0]
            for blocks in (1, 2**31 - 1)
        ]
        for deterministic in (False, True)
    }
    assert not torch.equal(*results[False])  # or this test would see nothing
    assert torch.equal(*results[True])
