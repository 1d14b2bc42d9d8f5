"""Files that run code, crash the process or fill the memory elsewhere are refused by one line, or are plain data."""

import json
import subprocess
import sys
from pathlib import Path

import hostile_checkpoints
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each process reads half of the files, without OpenMMLab, within 2 GB more than torch takes and 20 s per file.
READ = """
import json, re, resource, signal, sys, types
from collections.abc import Mapping
from pathlib import Path

package = types.ModuleType('internimage')
package.__path__ = [sys.argv[1]]
sys.modules['internimage'] = package
sys.modules['mmengine'] = None
import numpy as np
import torch
from internimage.checkpoint import CheckpointError, check_finite, dataset_meta, read_checkpoint

def only_data(value, path='content'):
    if isinstance(value, Mapping):
        for key, item in value.items():
            only_data(key, path), only_data(item, f'{path}/{key}')
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            only_data(item, path)
    else:
        known = (str, int, float, bool, complex, bytes, torch.Tensor, np.ndarray, np.generic, torch.dtype, torch.device)
        assert value is None or isinstance(value, known), (path, type(value))

used = int(re.search(r'VmSize:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, used + 2**31))
for name, path in json.loads(Path(sys.argv[2]).read_text()):
    print(json.dumps([name]), flush=True)
    signal.alarm(20)
    try:
        content = read_checkpoint(path)
        only_data(content)
        check_finite(content['state_dict'], path)
        meta = dataset_meta(content, path)
    except CheckpointError as error:
        print(json.dumps([name, 'refused', str(error)]), flush=True)
    else:
        assert all(isinstance(c, str) and c.isprintable() and len(c) <= 120 for c in meta.get('classes', []))
        assert all(type(x) is int for color in meta.get('palette', []) for x in color)
        print(json.dumps([name, 'read', sorted(meta)]), flush=True)
    signal.alarm(0)
"""


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hostile')
    files = [(name, str(path)) for name, path in hostile_checkpoints.write_all(folder).items()]
    processes = []
    for part in range(2):
        names = folder / f'{part}.json'
        names.write_text(json.dumps(files[part::2]))
        command = [sys.executable, '-c', READ, str(ROOT / 'internimage'), str(names)]
        processes.append(
            subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    found = {}
    for process in processes:
        out, err = process.communicate(timeout=300)
        lines = [json.loads(line) for line in out.splitlines()]
        assert process.returncode == 0, (process.returncode, lines[-1:], err[-2000:])
        found.update({line[0]: line[1:] for line in lines if len(line) > 1})
    assert len(found) == len(files)
    assert not list(folder.rglob(hostile_checkpoints.PWNED))
    return found


def test_there_are_many(outcomes):
    assert len(outcomes) >= 100


def test_each_is_refused_by_one_line(outcomes):
    read = {name for name, (outcome, _) in outcomes.items() if outcome == 'read'}
    assert read == {name for name in outcomes if name.endswith('+')}
    for name, (outcome, message) in outcomes.items():
        if outcome == 'refused':
            assert message.startswith('checkpoint') and message.isprintable() and len(message) <= 2000, name


def test_no_function_is_suggested_to_be_allowed(outcomes):
    suggested = {name for name, (_, message) in outcomes.items() if 'add_safe_globals' in message}
    assert not suggested
    assert 'is not safe to load: it holds posix.system, which is' in outcomes['call posix.system'][1]


@pytest.mark.parametrize(
    'name, says',
    [
        ('tensor expanded', r'a tensor of shape (1099511627776,), of which the file does not hold all values'),
        ('storage of 10^12', 'a tensor has 4000000000000 bytes, which the file does not have'),
        ('ndarray of objects from bytes', 'calls numpy.dtype with what torch.save does not give it'),
        ('array larger than its bytes', 'a numpy array whose shape, type and bytes do not fit each other'),
        ('dict in itself', 'holds something that contains itself'),
        ('a list that stands for 2^59 texts', 'stands for more values than any checkpoint has'),
        ('compressed text of 50 MB', 'is a compressed zip file'),
        ('FIFO', 'fifo.pth is not a regular file'),
        ('symlink to /dev/zero', 'is not a regular file'),
        ('a name of 5,000 characters', 'cannot be read: File name too long'),
        ('a name that steers a terminal', '?[31m b does not exist'),
        ('index map a list', 'has no weight_map'),
        ('index deep', 'cannot be read: it nests its values too deep'),
        ('classes numbers', 'classes of its dataset_meta are a list with [1, 2], not a list of names'),
        ('palette words', 'not a list of (R, G, B)'),
        ('meta a list', 'meta is a list'),
    ],
)
def test_what_is_wrong_is_said(outcomes, name, says):
    assert says in outcomes[name][1]


def test_what_is_read_of_odd_metas(outcomes):
    read = {name: meta for name, (outcome, meta) in outcomes.items() if outcome == 'read'}
    assert read['names that steer a terminal+'] == ['classes', 'palette']
    assert read['palette too short+'] == read['palette random+'] == ['classes']
    assert read['meta None+'] == []
