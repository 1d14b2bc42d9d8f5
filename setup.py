"""Builds the one compiled module, ops_dcnv3._C. Everything else about the packages is in setup.cfg.

Environment variables:
    OPS_DCNV3_CUDA: 1 insists on the CUDA kernels, for all architectures, as for a wheel; `all` builds these where nvcc
        fits torch; 0 leaves them out. Without it they are built for the GPUs of this machine, if it has any.
    OPS_DCNV3_SANITIZE: 1 builds for the CPU alone, with AddressSanitizer and UndefinedBehaviorSanitizer.
    CUDA_HOME, TORCH_CUDA_ARCH_LIST: as for any extension of PyTorch.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import find_packages, setup

try:
    import torch
except ModuleNotFoundError:
    # pip builds in an environment of its own; the torch to compile for is the one of the Python that pip runs in.
    sys.path.append(sysconfig.get_path('platlib'))
    try:
        import torch
    except ModuleNotFoundError:
        raise SystemExit(
            'ops_dcnv3: torch must be installed before this package, which is compiled for it, and is not there: '
            'pip install torch (with uv, then: uv pip install --no-build-isolation .)'
        ) from None

CSRC = Path('ops_dcnv3', 'csrc')
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


def output(*command) -> str:
    """What a command prints, on either stream, whatever its exit status."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def find_toolkit() -> Path:
    """The folder of the CUDA toolkit: CUDA_HOME if set, else the home of the nvcc on PATH.

    That nvcc may be a script elsewhere that calls the real one, so it is asked for its own place.
    """
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    if home:
        return Path(home)
    nvcc = shutil.which('nvcc')
    if nvcc is None:
        return Path('/usr/local/cuda')
    top = re.search(r'^#\$ TOP=(.+)$', output(nvcc, '--dryrun', 'any.cu'), re.MULTILINE)
    if top and Path(top[1], 'bin', 'nvcc').exists() and Path(top[1], 'include', 'cuda_runtime.h').exists():
        return Path(top[1]).resolve()
    return Path(nvcc).parents[1]


def why_no_cuda(toolkit: Path) -> str | None:
    """The first reason against building the CUDA kernels, or None."""
    if os.environ.get('OPS_DCNV3_CUDA') == '0':
        return 'OPS_DCNV3_CUDA is 0'
    if os.environ.get('OPS_DCNV3_SANITIZE') == '1':
        return 'OPS_DCNV3_SANITIZE is 1'
    here = not os.environ.get('OPS_DCNV3_CUDA') and not os.environ.get('TORCH_CUDA_ARCH_LIST')
    if here and not torch.cuda.device_count():
        return 'this machine has no GPU that torch can use (OPS_DCNV3_CUDA=1 builds for all)'
    if torch.version.cuda is None:
        return f'torch {torch.__version__} is built without CUDA'
    nvcc = toolkit / 'bin' / 'nvcc'
    if not nvcc.exists():
        return f'torch is built with CUDA {torch.version.cuda}, but there is no {nvcc}'
    release = re.search(r'release (\d+)\.(\d+)', output(nvcc, '--version'))
    if release is None or release[1] != torch.version.cuda.split('.')[0]:
        found = f'{release[1]}.{release[2]}' if release else 'unknown'
        return f'torch is built with CUDA {torch.version.cuda}, but {nvcc} is of CUDA {found}'
    return None


def architecture_flags(toolkit: Path) -> list[str]:
    """Code for the GPUs that this nvcc knows, or for those of this machine, and PTX of the newest for those to come."""
    if os.environ.get('TORCH_CUDA_ARCH_LIST') or not os.environ.get('OPS_DCNV3_CUDA'):
        return []  # torch reads it; without it, it asks the GPUs
    known = output(toolkit / 'bin' / 'nvcc', '--list-gpu-arch').split()
    numbers = [number for number in ARCHITECTURES if f'compute_{number}' in known]
    flags = [f'-gencode=arch=compute_{number},code=sm_{number}' for number in numbers]
    return [*flags, f'-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}']


def headers_from_pip() -> list[str]:
    """CUDA headers that were installed with torch: its own headers include some that a small toolkit lacks."""
    nvidia = Path(torch.__file__).parents[1] / 'nvidia'
    major = torch.version.cuda.split('.')[0]
    one_folder = nvidia / f'cu{major}' / 'include'
    return [str(one_folder)] if one_folder.is_dir() else [str(path) for path in sorted(nvidia.glob('*/include'))]


toolkit = find_toolkit()
reason = why_no_cuda(toolkit)
if reason and os.environ.get('OPS_DCNV3_CUDA') == '1':
    raise SystemExit(f'ops_dcnv3: OPS_DCNV3_CUDA is 1, but {reason}')
print('ops_dcnv3: ' + (f'for the CPU alone: {reason}' if reason else f'with CUDA kernels, by {toolkit}/bin/nvcc'))
if not reason:
    os.environ['CUDA_HOME'] = str(toolkit)

# It reads CUDA_HOME when it is imported.
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402

sources = [path for path in CSRC.rglob('*.cpp') if not reason or path.parent.name != 'cuda']
# -g0: Python's own flags have -g. -fopenmp: without it ATen's parallel_for silently runs on one thread.
openmp = ['-fopenmp'] if sys.platform == 'linux' else []
cxx_flags = ['-O3', '-g0', '-ffp-contract=fast', '-fvisibility=hidden', '-Wno-psabi', *openmp]
link_flags = [*openmp]
if os.environ.get('OPS_DCNV3_SANITIZE') == '1':
    link_flags += ['-fsanitize=address,undefined']
    cxx_flags += ['-O1', '-g', '-fno-omit-frame-pointer', *link_flags]
nvcc_flags = []
if not reason:
    sources += CSRC.rglob('*.cu')
    nvcc_flags = ['-O3', '-Xcompiler', '-fvisibility=hidden', '-Xfatbin', '-compress-all', *architecture_flags(toolkit)]

extension = (CppExtension if reason else CUDAExtension)(
    'ops_dcnv3._C',
    sources=sorted(str(path) for path in sources),
    depends=sorted(str(path) for path in CSRC.rglob('*.*')),  # what a source distribution needs, on any machine
    include_dirs=[str(CSRC.resolve())],
    extra_compile_args={'cxx': cxx_flags, 'nvcc': nvcc_flags},
    extra_link_args=link_flags,
    # No torch class crosses into Python, so one build serves every Python from 3.10 on.
    py_limited_api=True,
)
if not reason:
    extension.include_dirs += headers_from_pip()  # after those of the toolkit

setup(
    # The configs are installed inside the package, so that a config can be named without a checkout.
    packages=[*find_packages(include=['internimage*', 'ops_dcnv3*']), 'internimage.configs'],
    package_dir={'internimage.configs': 'configs'},
    package_data={'internimage.configs': ['**/*.py', '**/*.json', '**/*.md']},
    ext_modules=[extension],
    cmdclass={'build_ext': BuildExtension},
    options={'bdist_wheel': {'py_limited_api': 'cp310'}},
)
