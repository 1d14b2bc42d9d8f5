import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='session')
def build_emulation(tmp_path_factory):
    """A function that builds the emulation for a GPU architecture, once."""
    if shutil.which('g++') is None:
        pytest.skip('needs the C++ compiler g++ to build the CUDA kernels for the CPU')
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:  # one build for all workers, whose folders have one parent
        folder = folder.parent

    def build(architecture):
        program = folder / f'emulation_{architecture}'
        with program.with_suffix('.lock').open('w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if program.exists():
                return program
            whole = program.with_suffix('.part')
            includes = [ROOT / 'tests/ops/cuda_emulation', ROOT / 'ops_dcnv3/csrc', ROOT / 'ops_dcnv3/csrc/cuda']
            command = ['g++', '-std=c++17', '-O1', '-g', '-fno-strict-aliasing', '-Wno-unknown-pragmas']
            command += [f'-D__CUDA_ARCH__={architecture}', *(f'-I{folder}' for folder in includes)]
            command += [str(includes[0] / 'emulation.cpp'), '-o', str(whole)]
            sanitizers = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all', '-fno-omit-frame-pointer']
            done = subprocess.run([*command, *sanitizers], capture_output=True, text=True)
            if done.returncode != 0:  # a g++ without the libraries of the sanitizers
                done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            whole.rename(program)
        return program

    return build
