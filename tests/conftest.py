import sys
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption('--device', default='cpu', help='where the operator tests run: cpu or cuda')


def pytest_runtest_setup(item):
    """A Runner leaves mmengine's default scope behind, in which the next test would look up its classes."""
    if 'mmengine.registry' in sys.modules:
        sys.modules['mmengine.registry'].DefaultScope._instance_dict.clear()


@pytest.fixture
def device(request) -> torch.device:
    device = torch.device(request.config.getoption('--device'))
    if device.type == 'cuda' and not torch.cuda.is_available():
        pytest.skip('--device cuda: torch finds no GPU')
    return device


@pytest.fixture
def shared() -> Path:
    """The folder of golden fixtures and real data beside a developer's checkout; tests that use it skip without it."""
    folder = Path(__file__).parents[2] / 'shared'
    if not folder.is_dir():
        pytest.skip('needs the folder ../shared (golden fixtures, real data), which is not part of the project')
    return folder


@pytest.fixture
def data() -> Path:
    return Path(__file__).parent / 'data'


@pytest.fixture
def official_file(data, request):
    """official_file(name): a golden output of the official code, or what it was computed from. The largest are not part
    of the project, but of the folder `shared`."""

    def find(name: str) -> Path:
        own = data / 'official' / name
        return own if own.exists() else request.getfixturevalue('shared') / 'fixtures' / 'official' / name

    return find
