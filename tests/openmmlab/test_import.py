"""`import internimage.openmmlab` registers whoever runs, and `internimage env` reports where it cannot be imported."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from mmengine.registry import MODELS
from mmdet.registry import DATASETS as D
from mmseg.registry import DATASETS as S
print('InternImage' in MODELS, 'ShapesDataset' in D, 'ShapesSegDataset' in S)
"""


def python(*args, folder=None):
    return subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, cwd=folder)


def test_whoever_imports_the_package_registers(tmp_path):
    """Also when Python is still looking for what `-m` names: `yours` imports the package before `yours.train` runs."""
    (tmp_path / 'yours').mkdir()
    (tmp_path / 'yours' / '__init__.py').write_text('import internimage.openmmlab\n')
    (tmp_path / 'yours' / 'train.py').write_text(PROGRAM)
    done = python('-m', 'yours.train', folder=tmp_path)
    assert done.stdout.splitlines()[-1] == 'True True True', done.stderr


def test_the_generator_runs_as_a_module(tmp_path):
    done = python(
        '-W',
        'error::RuntimeWarning',
        '-m',
        'internimage.openmmlab.datasets.shapes',
        tmp_path / 'd',
        '--num-train=1',
        '--num-val=1',
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'd' / 'annotations' / 'instances_val.json').is_file()


def test_the_network_alone_registers_nothing():
    program = (
        'import sys, internimage; internimage.InternImage; '
        "assert not {'mmengine', 'mmcv', 'mmdet', 'mmseg'} & sys.modules.keys()"
    )
    assert python('-c', program).returncode == 0


def test_a_broken_environment(tmp_path):
    """mmdet refuses mmcv's version when it is imported: the report says so, and so does the import in a program."""
    (tmp_path / 'mmdet').mkdir()
    (tmp_path / 'mmdet' / '__init__.py').write_text("raise AssertionError('MMCV==2.2.0 is used but incompatible')\n")
    (tmp_path / 'yours.py').write_text('import internimage.openmmlab\n')
    done = python('-m', 'internimage', folder=tmp_path)
    assert done.returncode == 1 and 'MMCV==2.2.0 is used but incompatible' in done.stdout, done.stderr
    for program in (['yours.py'], ['-m', 'yours']):
        done = python(*program, folder=tmp_path)
        assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith('AssertionError: MMCV'), program


def test_importing_prints_nothing_and_leaves_mmengine_as_it_was():
    script = (
        'import mmengine.logging; before = mmengine.logging.print_log; '
        'import internimage.openmmlab, mmdet.apis, mmseg.apis; '
        'assert mmengine.logging.print_log is before; mmengine.logging.print_log("still here")'
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, 'still here\n'), done.stderr
