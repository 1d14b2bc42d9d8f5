"""Packaging, and the set-up's progress."""

import shutil
import subprocess
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[1]


def test_every_folder_of_the_package_is_installed():
    """One without __init__.py would be left out: mmcv would have no operators then."""
    found = set(setuptools.find_packages(str(ROOT), include=['internimage*', 'ops_dcnv3*']))
    folders = {
        path.parent.relative_to(ROOT) for name in ('internimage', 'ops_dcnv3') for path in (ROOT / name).rglob('*.py')
    }
    assert found == {'.'.join(folder.parts) for folder in folders}


@pytest.mark.skipif(not shutil.which('make'), reason='needs make')
@pytest.mark.parametrize('count', [1, 12, 57])
def test_the_progress_of_the_setup_comes_line_by_line_off_a_terminal(count, tmp_path):
    """At most 20 lines, and the last."""
    (tmp_path / 'probe.mk').write_text(
        f'include {ROOT}/Makefile\nprobe:\n\t@(for i in $$(seq {count}); do echo "$$i {count}"; done) | $(PROGRESS)\n'
    )
    command = ['make', '-s', '-f', str(tmp_path / 'probe.mk'), 'probe']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    every = 1 + count // 20
    shown = [*range(every, count, every), count]
    assert [line.strip() for line in done.stdout.splitlines()] == [f'compiled {i} of {count}' for i in shown], (
        done.stderr
    )


def test_every_test_file_has_a_name_of_its_own():
    """pytest imports them by that name: two of one name end the whole run."""
    names = [path.name for path in (ROOT / 'tests').rglob('test_*.py')]
    assert sorted(names) == sorted(set(names))
