"""`python -m internimage`: every known-bad combination is found and says what to do."""

import subprocess
import sys

import pytest

from internimage.environment import DISTRIBUTIONS, collect, problems, report

HEALTHY = dict(
    versions=dict(
        numpy='2.4.6', torch='2.12.1', torchvision='0.27.1', timm='1.0.31', mmengine='0.10.12', mmcv='2.3.6',
        mmdet='3.5.1', mmseg='1.4.2',
    ),
    distributions={name: candidates[0] for name, candidates in DISTRIBUTIONS.items()},
    errors={}, cpu='AVX2', threads=2, cuda='13.0', devices=[], gpu_machine=False, nvcc=None, dcnv3_cuda=False,
    mmcv_ops='of torchvision 0.27.1 and ops_dcnv3, mmcv is not compiled',
)  # fmt: skip


def facts(errors=(), versions=(), distributions=(), **changes) -> dict:
    """The facts of a healthy machine with these changes."""
    nested = dict(errors=errors, versions=versions, distributions=distributions)
    return HEALTHY | {name: HEALTHY[name] | dict(change) for name, change in nested.items()} | changes


def test_a_healthy_machine_has_no_problem():
    assert problems(HEALTHY) == []
    gpu = facts(devices=['H200'], gpu_machine=True, dcnv3_cuda=True, nvcc='13.0 (/usr/bin/nvcc)')
    assert problems(gpu) == []


@pytest.mark.parametrize(
    'changed, expected',
    [
        (
            dict(versions={'torch': '2.13.0', 'torchvision': None}, errors={'torchvision': 'No module'}, cuda=None),
            'torch 2.13.0 is a CPU-only file that has no torchvision: install torch==2.12.1 torchvision==0.27.1',
        ),
        (
            dict(
                versions={'torchvision': '0.26.0'},
                errors={'torchvision': 'RuntimeError: operator torchvision::nms does not exist'},
            ),
            'torchvision 0.26.0 does not work with torch 2.12.1 (RuntimeError: operator torchvision::nms does not',
        ),
        (
            dict(errors={'mmcv.ops': 'ImportError: undefined symbol'}),
            'compiled operators that do not load (ImportError: undefined symbol), probably of another PyTorch. It '
            'needs none: pip install --no-cache-dir --force-reinstall --no-deps onedl-mmcv',
        ),
        (
            dict(
                versions={'mmdet': '3.3.0', 'mmcv': '2.2.0'},
                distributions={'mmdet': 'mmdet', 'mmcv': 'mmcv'},
                errors={'mmdet': 'AssertionError: MMCV==2.2.0 is used but incompatible'},
            ),
            'the original mmdet 3.3.0 refuses mmcv 2.2.0',
        ),
        (
            dict(versions={'mmcv': '2.1.0'}, distributions={'mmcv': 'mmcv'}),
            'the original mmcv 2.1.0 was built for numpy 1 and numpy is 2.4.6',
        ),
        (
            dict(devices=['H200'], gpu_machine=True),
            'there is a GPU, but ops_dcnv3 was built without CUDA',
        ),
        (
            dict(gpu_machine=True, cuda=None),
            'there is a GPU, but torch 2.12.1 cannot use it: it is a CPU build',
        ),
        (
            dict(errors={'ops_dcnv3': 'ImportError: undefined symbol'}),
            'the compiled operators of ops_dcnv3 did not load (ImportError: undefined symbol)',
        ),
        (dict(versions={'timm': None}, errors={'timm': 'No module'}), 'not installed: timm. Install: '),
        (dict(errors={'mmseg': 'ImportError: odd'}), 'mmseg cannot be imported (ImportError: odd)'),
    ],
)  # fmt: skip
def test_a_known_bad_combination_says_what_to_do(changed, expected):
    assert any(expected in problem for problem in problems(facts(**changed)))


def test_versions_that_fit_are_left_alone():
    assert problems(facts(versions={'numpy': '1.26.4', 'mmcv': '2.1.0'}, distributions={'mmcv': 'mmcv'})) == []
    assert problems(facts(versions={'torch': '2.13.1+cu130', 'torchvision': '0.28.0'})) == []


def test_a_new_torch_is_no_problem_of_mmcv():
    assert problems(facts(versions={'torch': '2.14.1', 'torchvision': '0.29.1'})) == []


def test_mmcv_is_not_blamed_for_what_ops_dcnv3_lacks():
    errors = {'ops_dcnv3': 'ImportError: undefined symbol', 'mmcv.ops': 'ImportError: undefined symbol'}
    assert not any('mmcv' in problem for problem in problems(facts(errors=errors)))


@pytest.mark.parametrize('text', ["mmcv's own, compiled", 'of torchvision 0.27.1 and ops_dcnv3, mmcv is not compiled'])
def test_the_report_says_whose_operators_mmcv_has(text):
    lines = {line.split()[0]: line for line in report(facts(mmcv_ops=text)).splitlines()}
    assert lines['mmcv.ops'].split(maxsplit=1)[1] == text


def test_the_report_names_version_distribution_and_failure():
    text = report(facts(versions={'timm': None}, errors={'timm': 'No module', 'mmdet': 'AssertionError: too new'}))
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert lines['mmcv'].split() == ['mmcv', '2.3.6', '(onedl-mmcv)']
    assert 'not installed' in lines['timm']
    assert 'import fails: AssertionError: too new' in lines['mmdet']
    assert 'AVX2, 2 threads' in lines['CPU']


def test_this_machine_is_reported():
    found = collect()
    assert found['versions']['torch'].startswith('2.')
    assert found['cpu'] and found['threads'] >= 1
    assert 'torch' not in found['errors']


def test_it_works_when_nothing_is_installed():
    """Python's isolated mode without site-packages: no torch, no OpenMMLab."""
    script = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('env', sys.argv[1]); "
        'env = importlib.util.module_from_spec(spec); spec.loader.exec_module(env); sys.exit(env.main())'
    )
    file = sys.modules[collect.__module__].__file__
    done = subprocess.run([sys.executable, '-S', '-I', '-c', script, file], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert 'not installed: numpy, torch, torchvision, timm, mmengine, mmcv, mmdet, mmseg' in done.stdout
