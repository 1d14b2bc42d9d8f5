"""Builds the one compiled module, ops_dcnv3._C. Everything else about the packages stands in setup.cfg."""

from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

csrc = Path('ops_dcnv3', 'csrc')

setup(
    ext_modules=[
        CppExtension(
            'ops_dcnv3._C',
            sources=sorted(str(path) for path in csrc.rglob('*.cpp')),
            depends=sorted(str(path) for path in csrc.rglob('*.h')),
            include_dirs=[str(csrc.resolve())],
            extra_compile_args=['-O3', '-ffp-contract=fast', '-fvisibility=hidden', '-Wno-psabi'],
            # No torch class crosses into Python, so one build serves every Python from 3.10 on.
            py_limited_api=True,
        )
    ],
    cmdclass={'build_ext': BuildExtension},
    options={'bdist_wheel': {'py_limited_api': 'cp310'}},
)
