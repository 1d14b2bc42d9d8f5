"""`make matrix`: the suites of tests/versions.json, each on its version of torch, on the CPU.

    python tests/matrix.py [VERSION ...] [--folder .venv/matrix] [--quick]

Every version has a virtual environment of its own below FOLDER, which is kept. The operators are built in a copy of
the project there, so that the checkout does not change. Ends with a line per version; exit code 0 when all passed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTERS = ['pytest', 'hypothesis', 'numpy', 'setuptools<82', 'wheel', 'ninja', 'packaging']
COPIED = ('ops_dcnv3', 'internimage', 'configs', 'tests', 'tools', 'docs')


def versions() -> list[dict]:
    return json.loads(ROOT.joinpath('tests', 'versions.json').read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('torch', nargs='*', help='versions of torch (default: all)')
    parser.add_argument('--folder', type=Path, default=ROOT / '.venv' / 'matrix')
    parser.add_argument('--quick', action='store_true', help='of each suite tests/ops and tests/core alone')
    args = parser.parse_args()
    chosen = [row for row in versions() if not args.torch or row['torch'] in args.torch]
    if not chosen:
        parser.error(f'tests/versions.json has torch {", ".join(row["torch"] for row in versions())}, got {args.torch}')
    results = []
    for row in chosen:
        start = time.monotonic()
        passed = run(row, args.folder / row['torch'], args.quick)
        results.append(f'torch {row["torch"]}: {"passed" if passed else "FAILED"}, {time.monotonic() - start:.0f} s')
    print('\n'.join(results))
    return int(any('FAILED' in line for line in results))


def run(row: dict, folder: Path, quick: bool) -> bool:
    """Sets the environment up where it is not there yet, and runs the suites. Did all of it pass?"""
    python = folder / 'bin' / 'python'
    whole = row['suites'] == ['tests']
    if not (folder / '.done').exists():
        print(f'== torch {row["torch"]}: environment (downloads about 2.5 GB)', flush=True)
        subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
        pip = [python, '-m', 'pip', 'install', '-q', '--disable-pip-version-check']
        pair = [f'torch=={row["torch"]}', f'torchvision=={row["torchvision"]}']
        subprocess.run([*pip, *pair, *TESTERS], check=True)
        if whole:
            lines = ROOT.joinpath('requirements.txt').read_text().splitlines()
            rest = [line for line in lines if line and not line.startswith(('#', 'torch==', 'torchvision==', '-'))]
            subprocess.run([*pip, *pair, *rest], check=True)
        (folder / '.done').touch()
    copy = folder / 'project'
    for name in COPIED:
        shutil.copytree(
            ROOT / name, copy / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns('*.so', '__pycache__')
        )
    for name in ('setup.py', 'setup.cfg', 'README.md', 'LICENSE', 'CHANGELOG.md', 'CONTRIBUTING.md', 'Makefile'):
        shutil.copy(ROOT / name, copy / name)
    environment = dict(os.environ, OPS_DCNV3_CUDA='0', PYTHONPATH=str(copy))
    print(f'== torch {row["torch"]}: compiling the operators', flush=True)
    build = [python, 'setup.py', '-q', 'build_ext', '--inplace']
    if subprocess.run(build, cwd=copy, env=environment).returncode:
        return False
    suites = ['tests/ops', *(['tests/core'] if whole else [])] if quick else row['suites']
    print(f'== torch {row["torch"]}: {" ".join(suites)}', flush=True)
    tests = [python, '-m', 'pytest', '-q', '-m', 'not slow', *suites]
    return subprocess.run(tests, cwd=copy, env=environment).returncode == 0


if __name__ == '__main__':
    sys.exit(main())
