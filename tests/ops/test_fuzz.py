import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize('calls', [300, pytest.param(20000, marks=pytest.mark.slow)])
@pytest.mark.parametrize('operator', ['dcnv3', 'roi_pool', 'ms_deform_attn'])
def test_random_calls(operator, calls, device):
    fuzz = Path(__file__).with_name('fuzz.py')
    command = [sys.executable, fuzz, operator, '--calls', str(calls), '--seed', '1', '--device', str(device)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
