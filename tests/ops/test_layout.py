"""Every operator returns the layout that its fake kernel states, on the CPU and, without their kernels, on CUDA."""

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.cpp_extension import include_paths

import ops_dcnv3  # noqa: F401  (registers the operators)

ROOT = Path(__file__).parents[2]
DTYPES = (torch.float64, torch.bfloat16)  # computed in the dtype itself, and in float32


@pytest.fixture(scope='module')
def cuda_bindings(tmp_path_factory):
    """The CUDA bindings for tensors of the CPU. Their kernels do nothing: the layout of the results is real."""
    headers = [Path(path) for path in include_paths()]
    if shutil.which('g++') is None or not (headers[0] / 'torch' / 'library.h').exists():
        pytest.skip('needs the C++ compiler g++, and the headers of torch')
    library = tmp_path_factory.mktemp('layout') / 'layout.so'
    sources = ROOT / 'tests/ops/cuda_emulation', ROOT / 'ops_dcnv3/csrc', ROOT / 'ops_dcnv3/csrc/cuda'
    libraries = Path(torch.__file__).parent / 'lib'
    version = tuple(int(part) for part in torch.__version__.split('.')[:2])
    standard = 'c++17' if version < (2, 10) else 'c++20'
    command = ['g++', f'-std={standard}', '-O0', '-shared', '-fPIC', '-Wno-psabi']
    command += [f'-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}']
    command += [f'-I{path}' for path in (*sources, *headers)]
    command += [str(sources[0] / 'layout.cpp'), '-o', str(library), f'-L{libraries}', '-ltorch_cpu', '-lc10']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fragment = torch.library.Library('ops_dcnv3_layout', 'DEF')
    for name in OPERATORS:
        for each in (name, f'{name}_backward'):
            fragment.define(str(getattr(torch.ops.ops_dcnv3, each).default._schema).partition('::')[2])
    torch.ops.load_library(library)
    yield torch.ops.ops_dcnv3_layout
    fragment._destroy()


def layouts(result) -> list[tuple]:
    return [(t.shape, t.stride(), t.dtype) for t in (result if isinstance(result, tuple) else (result,))]


def any_strides(tensor: torch.Tensor):
    """The same numbers in every layout that callers have."""
    yield tensor
    yield torch.stack([tensor, tensor], dim=-1)[..., 0]
    yield tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    yield tensor.movedim(-1, 1).contiguous().movedim(1, -1)
    yield tensor.as_strided(
        tensor.shape, [7777 if n == 1 else s for n, s in zip(tensor.shape, tensor.stride(), strict=True)]
    )


def dcnv3_calls(dtype):
    for batch, size, groups, channels, kernel, stride in (
        (2, (5, 4), 2, 3, (3, 3), (1, 2)),
        (1, (1, 1), 1, 1, (1, 1), (1, 1)),
        (1, (6, 1), 3, 8, (2, 1), (2, 1)),
        (0, (5, 4), 2, 4, (3, 2), (1, 1)),
    ):
        out = [(n - k) // s + 1 for n, k, s in zip((size[0] + 2, size[1] + 2), kernel, stride, strict=True)]
        points = groups * kernel[0] * kernel[1]
        offset, mask = torch.zeros(batch, *out, 2 * points, dtype=dtype), torch.zeros(batch, *out, points, dtype=dtype)
        for input in any_strides(torch.zeros(batch, *size, groups * channels, dtype=dtype)):
            yield (input, offset, mask), (kernel, stride, (1, 1), (1, 1), groups, 1.0, False, True), 3


def roi_pool_calls(name, dtype):
    for batch, size, rois, classes, depth, bins in (
        (2, (8, 16), 3, 1, 6, (2, 1)),
        (2, (5, 4), 3, 2, 3, (3, 2)),
        (1, (1, 1), 1, 1, 1, (1, 1)),
        (1, (4, 3), 2, 3, 1, (1, 1)),
        (2, (4, 3), 0, 1, 5, (2, 2)),
    ):
        classes = classes if name == 'deform_ps_roi_pool' else 1
        channels = classes * depth * (1 if name == 'deform_roi_pool' else bins[0] * bins[1])
        boxes = torch.tensor([[0, 0.5, 0.25, 3.5, 2.75]]).repeat(rois, 1)
        offset, mask = torch.zeros(rois, 2 * classes, *bins, dtype=dtype), torch.zeros(rois, *bins, dtype=dtype)
        options = (bins, 0.5, 2)
        for input in any_strides(torch.zeros(batch, channels, *size, dtype=dtype)):
            if name == 'ps_roi_pool':
                yield (input, boxes), options, 1
            elif name == 'deform_ps_roi_pool':
                yield (input, boxes, offset), (*options, 0.1), 2
            else:
                yield (input, boxes, offset, mask), (*options, 0.1), 3


def ms_deform_attn_calls(dtype):
    shapes, starts = torch.tensor([[3, 4], [1, 2]]), torch.tensor([0, 12])
    for batch, queries, heads, channels in ((2, 3, 2, 4), (1, 1, 1, 1), (0, 3, 2, 4), (3, 0, 1, 8)):
        locations = torch.zeros(batch, queries, heads, 2, 3, 2, dtype=torch.promote_types(dtype, torch.float32))
        weights = torch.zeros(locations.shape[:-1], dtype=dtype)
        for value in any_strides(torch.zeros(batch, 14, heads, channels, dtype=dtype)):
            yield (value, shapes, starts, locations, weights), (), 3


OPERATORS = {'dcnv3': dcnv3_calls, 'ms_deform_attn': ms_deform_attn_calls}
OPERATORS |= {
    name: lambda dtype, name=name: roi_pool_calls(name, dtype)
    for name in ('deform_roi_pool', 'ps_roi_pool', 'deform_ps_roi_pool')
}


def test_every_operator_with_gradients_is_here():
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith('ops_dcnv3::')]
    with_gradients = {name.removesuffix('_backward') for name in names if name.endswith('_backward')}
    assert with_gradients == {f'ops_dcnv3::{name}' for name in OPERATORS}


def check(operators, name):
    operator, backward = (getattr(operators, each) for each in (name, f'{name}_backward'))
    fakes = [getattr(torch.ops.ops_dcnv3, each) for each in (name, f'{name}_backward')]
    mode, strides = FakeTensorMode(), set()
    for dtype in DTYPES:
        for tensors, options, gradients in OPERATORS[name](dtype):
            output = operator(*tensors, *options)
            fake = [mode.from_tensor(t) for t in tensors]
            with mode:
                fake_output = fakes[0](*fake, *options)
            assert layouts(output) == layouts(fake_output), (dtype, [t.stride() for t in tensors], options)
            strides.add(tensors[0].stride())
            for grad_output in itertools.islice(any_strides(torch.zeros_like(output)), 2):
                for wanted in ([True] * gradients, [False, True, False][:gradients]):
                    found = backward(grad_output, *tensors, *options, wanted)
                    with mode:
                        promised = fakes[1](mode.from_tensor(grad_output), *fake, *options, wanted)
                    assert layouts(found) == layouts(promised), (dtype, wanted, [t.stride() for t in tensors], options)
    assert len(strides) > 10


@pytest.mark.parametrize('name', OPERATORS)
def test_cpu(name):
    check(torch.ops.ops_dcnv3, name)


@pytest.mark.parametrize('name', OPERATORS)
def test_cuda_bindings(name, cuda_bindings):
    check(cuda_bindings, name)


@pytest.mark.parametrize('composed', [False, True])  # composed is what CUDA has
def test_operators_of_inference(composed):
    def run(name, *arguments):
        operator = getattr(torch.ops.ops_dcnv3, name).default
        if not composed:
            return operator(*arguments)
        return operator._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *arguments)

    mode, ones = FakeTensorMode(allow_non_fake_inputs=True), torch.ones(1)
    for batch, height, width, channels in ((2, 5, 4, 6), (1, 1, 1, 1), (1, 4, 1, 3), (3, 1, 5, 1)):
        parameters = torch.ones(channels, 1, 3, 3), *(ones.repeat(channels) for _ in range(3))
        options = 1e-6, (2, 1), (1, 1)
        for input in any_strides(torch.ones(batch, height, width, channels)):
            for name, arguments in (
                ('depthwise_norm_gelu', (*parameters, *options)),
                ('linear', (torch.ones(5, channels), torch.ones(5))),
            ):
                with torch.no_grad():
                    found = run(name, input, *arguments)
                    with mode:
                        promised = getattr(torch.ops.ops_dcnv3, name)(mode.from_tensor(input), *arguments)
                assert layouts(found) == layouts(promised), (name, input.shape, input.stride())
