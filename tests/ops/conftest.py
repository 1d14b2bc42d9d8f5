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
    folder, programs = tmp_path_factory.mktemp('cuda_emulation'), {}

    def build(architecture):
        if architecture not in programs:
            program = folder / f'emulation_{architecture}'
            includes = [ROOT / 'tests/ops/cuda_emulation', ROOT / 'ops_dcnv3/csrc', ROOT / 'ops_dcnv3/csrc/cuda']
            command = ['g++', '-std=c++17', '-O1', '-g', '-fno-strict-aliasing', '-Wno-unknown-pragmas']
            command += [f'-D__CUDA_ARCH__={architecture}', *(f'-I{folder}' for folder in includes)]
            command += [str(includes[0] / 'emulation.cpp'), '-o', str(program)]
            sanitizers = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all', '-fno-omit-frame-pointer']
            done = subprocess.run([*command, *sanitizers], capture_output=True, text=True)
            if done.returncode != 0:  # a g++ without the libraries of the sanitizers
                done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            programs[architecture] = program
        return programs[architecture]

    return build
