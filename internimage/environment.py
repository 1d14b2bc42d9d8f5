"""`internimage env`: what is installed, whether it fits together, and what to do if it does not.

Works when any part is missing. Exit code 0 when all is well, 1 when something needs doing.
"""

import contextlib
import importlib
import io
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata

# import name -> distributions that provide it, the maintained fork first
DISTRIBUTIONS = {
    'numpy': ['numpy'],
    'torch': ['torch'],
    'torchvision': ['torchvision'],
    'timm': ['timm'],
    'mmengine': ['onedl-mmengine', 'mmengine', 'mmengine-lite'],
    'mmcv': ['onedl-mmcv', 'mmcv', 'mmcv-lite'],
    'mmdet': ['onedl-mmdetection', 'mmdet'],
    'mmseg': ['onedl-mmsegmentation', 'mmsegmentation'],
}
# name here -> module that is imported, in this order: mmdet and mmseg take mmcv's operators where ours puts them
MODULES = {name: name for name in DISTRIBUTIONS if name not in ('mmdet', 'mmseg')}
MODULES |= {'ops_dcnv3': 'ops_dcnv3', 'mmcv.ops': 'internimage.openmmlab.ops', 'mmdet': 'mmdet', 'mmseg': 'mmseg'}
INSTALL = 'make setup, or pip install -r requirements.txt and then pip install --no-build-isolation -e .'


def collect() -> dict:
    """The facts about this environment, without judgement: see `problems`.

    Returns:
        `versions` and `distributions` by import name (None: not installed), `errors` by import name (the reason why an
        import failed), `cpu`, `threads`, `cuda` (the CUDA version torch was built for, or None), `devices` (GPU names),
        `gpu_machine` (is there a GPU, whether torch can use it or not), `nvcc`, `dcnv3_cuda` (were our operators
        built with CUDA), `mmcv_ops` (where mmcv's operators come from).
    """
    versions, distributions = dict.fromkeys(DISTRIBUTIONS), dict.fromkeys(DISTRIBUTIONS)
    for name, candidates in DISTRIBUTIONS.items():
        for candidate in candidates:
            try:
                versions[name], distributions[name] = metadata.version(candidate), candidate
                break
            except metadata.PackageNotFoundError:
                continue
    errors = {}
    for name, module in MODULES.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # mmdet and mmseg print while they are imported
                importlib.import_module(module)
        except Exception as error:  # a broken combination raises anything: ImportError, RuntimeError, AssertionError
            if module in sys.modules:
                continue  # the module did load, and what its package imports after it did not
            errors[name] = f'{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ""}'
    facts = dict(versions=versions, distributions=distributions, errors=errors)
    facts.update(cpu=None, threads=os.cpu_count(), cuda=None, devices=[], dcnv3_cuda=False, mmcv_ops=None)
    if 'torch' not in errors:
        import torch

        facts.update(cpu=torch.backends.cpu.get_cpu_capability(), threads=torch.get_num_threads())
        facts.update(cuda=torch.version.cuda)
        facts.update(devices=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])
        if 'ops_dcnv3' not in errors:
            facts['dcnv3_cuda'] = torch.ops.ops_dcnv3.has_kernel('dcnv3', 'CUDA')
    if 'mmcv.ops' not in errors:
        is_compiled = importlib.import_module(MODULES['mmcv.ops']).is_compiled
        served = f'of torchvision {versions["torchvision"]} and ops_dcnv3, mmcv is not compiled'
        facts['mmcv_ops'] = "mmcv's own, compiled" if is_compiled() else served
    facts['gpu_machine'] = bool(facts['devices']) or os.path.exists('/dev/nvidiactl')
    facts['nvcc'] = nvcc_version()
    return facts


def nvcc_version() -> str | None:
    """The release of the nvcc on PATH with its path, or None if there is none."""
    nvcc = shutil.which('nvcc')
    if nvcc is None:
        return None
    try:
        text = subprocess.run([nvcc, '--version'], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return f'{nvcc} (does not run)'
    release = [line.split('release ')[1].split(',')[0] for line in text.splitlines() if 'release ' in line]
    return f'{release[0] if release else "unknown version"} ({nvcc})'


def problems(facts: dict) -> list[str]:
    """What does not fit together in the facts of `collect`, each with what to do about it."""
    versions, errors, found = facts['versions'], facts['errors'], []
    number = {name: _number(version) for name, version in versions.items()}

    missing = [name for name, version in versions.items() if version is None and name in errors]
    if missing:
        found.append(f'not installed: {", ".join(missing)}. Install: {INSTALL}')
    if 'torchvision' in errors and versions['torch'] and versions['torchvision']:
        # torch 2.x pairs with torchvision 0.(x + 15)
        found.append(
            f'torchvision {versions["torchvision"]} does not work with torch {versions["torch"]} '
            f'({errors["torchvision"]}): install the pair, such as torch==2.12.1 torchvision==0.27.1'
        )
    if (2, 13) <= number['torch'] < (2, 14) and not facts['cuda'] and not _paired(number):
        found.append(
            f'torch {versions["torch"]} is a CPU-only file that has no torchvision: '
            'install torch==2.12.1 torchvision==0.27.1'
        )
    if 'mmcv.ops' in errors and not {'mmcv', 'ops_dcnv3', 'torchvision'} & errors.keys():
        found.append(
            f'mmcv {versions["mmcv"]} has compiled operators that do not load ({errors["mmcv.ops"]}), probably of '
            'another PyTorch. It needs none: pip install --no-cache-dir --force-reinstall --no-deps onedl-mmcv'
        )
    if facts['distributions']['mmdet'] == 'mmdet' and number['mmcv'] >= (2, 2):
        found.append(
            f'the original mmdet {versions["mmdet"]} refuses mmcv {versions["mmcv"]} (it wants mmcv < 2.2): '
            'pip uninstall mmdet, pip install onedl-mmdetection'
        )
    if number['numpy'] >= (2,) and facts['distributions']['mmcv'] == 'mmcv' and () < number['mmcv'] < (2, 2):
        found.append(
            f'the original mmcv {versions["mmcv"]} was built for numpy 1 and numpy is {versions["numpy"]}: '
            'pip install "numpy<2", or replace mmcv with onedl-mmcv'
        )
    if 'ops_dcnv3' in errors:
        found.append(
            f'the compiled operators of ops_dcnv3 did not load ({errors["ops_dcnv3"]}): '
            'pip install --no-build-isolation -e . in this project, again after every change of torch'
        )
    elif facts['devices'] and not facts['dcnv3_cuda']:
        found.append(
            'there is a GPU, but ops_dcnv3 was built without CUDA: install the CUDA toolkit of version '
            f'{facts["cuda"]} (nvcc: {facts["nvcc"] or "not found"}), then pip install --no-build-isolation -e . again'
        )
    if facts['gpu_machine'] and not facts['devices'] and 'torch' not in errors:
        reason = f'it was built for CUDA {facts["cuda"]}: update the driver' if facts['cuda'] else 'it is a CPU build'
        found.append(f'there is a GPU, but torch {versions["torch"]} cannot use it: {reason}')
    explained = {'torchvision', 'mmcv.ops', 'ops_dcnv3', *missing}
    if not found:
        found += [f'{name} cannot be imported ({errors[name]}): {INSTALL}' for name in errors if name not in explained]
    return found


def report(facts: dict) -> str:
    """The facts of `collect` as lines of text."""
    lines = [('python', f'{platform.python_version()} ({platform.platform()})')]
    for name, version in facts['versions'].items():
        distribution, error = facts['distributions'][name], facts['errors'].get(name)
        text = version or ('not installed' if error else 'installed, version unknown')
        text += f' ({distribution})' if distribution not in (name, None) else ''
        lines.append((name, text + (f', import fails: {error}' if error and version else '')))
    lines += [
        ('mmcv.ops', facts['mmcv_ops'] or facts['errors'].get('mmcv.ops')),
        ('ops_dcnv3', facts['errors'].get('ops_dcnv3', 'compiled, loaded')),
    ]
    lines += [
        ('CPU', f'{facts["cpu"] or "unknown capability"}, {facts["threads"]} threads'),
        ('CUDA', f'torch built for {facts["cuda"] or "none"}, devices: {", ".join(facts["devices"]) or "none"}'),
        ('nvcc', facts['nvcc'] or 'not found'),
        ('ops_dcnv3 CUDA', 'yes' if facts['dcnv3_cuda'] else 'no'),
    ]
    width = max(len(name) for name, _ in lines)
    return '\n'.join(f'{name:{width}}  {text}' for name, text in lines)


def _number(version: str | None) -> tuple[int, ...]:
    """'2.12.1+cu130' -> (2, 12); () for a package that is not there."""
    parts = (version or '').split('+')[0].split('.')[:2]
    return tuple(int(part) for part in parts if part.isdigit())


def _paired(number: dict) -> bool:
    """torch 2.x goes with torchvision 0.(x + 15)."""
    return number['torchvision'][1:] == tuple(minor + 15 for minor in number['torch'][1:])


def main() -> int:
    """Prints the report; returns 1 if something does not fit together."""
    facts = collect()
    print(report(facts))
    found = problems(facts)
    print('\n' + ('\n'.join(f'! {problem}' for problem in found) if found else 'All of it fits together.'))
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
