"""The commands and the lines of config in docs/own_data.md and docs/recipes.md, on tiny data."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import own_data_folders as folders
import pytest
import torch
from mmdet.visualization import DetLocalVisualizer
from mmengine.visualization import Visualizer

from internimage.__main__ import main

DOCS = Path(__file__).resolve().parents[2] / 'docs'
SHORT = ['max_epochs=1', 'val_interval=1', 'num_workers=0', 'default_hooks.logger.interval=1']


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```', (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    return [shlex.split(line) for block in blocks(page, 'bash') for line in block.splitlines()]


def run(monkeypatch, words: list[str]) -> None:
    """One command of the package, in this process; trainings are shortened."""
    if words[1] == 'train':
        small = [] if any('image_scale' in word for word in words) else ['image_scale=(96,64)']
        own = [option for option in [*SHORT, *small]]
        at = words.index('--cfg-options') + 1 if '--cfg-options' in words else len(words)
        words = [*words[:at], *([] if '--cfg-options' in words else ['--cfg-options']), *own, *words[at:]]
    monkeypatch.setattr(sys, 'argv', words)
    torch.manual_seed(0)
    Visualizer._instance_dict.clear()  # which mmengine keeps for the whole process, by its name
    DetLocalVisualizer._instance_dict.clear()
    assert not main()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders.roboflow(tmp_path / 'pets')
    return tmp_path


def test_from_a_folder_to_a_page_of_results(place, monkeypatch):
    first, *more = [words for words in commands('own_data.md') if words[0] == 'internimage']
    assert [words[1] for words in (first, *more)] == ['new', 'browse', 'train', 'test', 'plot', 'browse', 'train']
    for words in (first, *more):
        if words[1] == 'test':
            (best,) = place.glob(next(word for word in words if '*' in word))  # as a shell does
            words = [str(best) if '*' in word else word for word in words]
        run(monkeypatch, words)
    work_dir = place / 'work_dirs' / 'pets_faster_rcnn_small'
    page = (work_dir / 'report.html').read_text()
    assert 'Confusion matrix' in page and '<td>cat</td>' in page
    assert (work_dir / 'curves.png').stat().st_size > 10000
    assert len(list((place / 'browsed').glob('*.png'))) == 12


@pytest.fixture
def config(place, monkeypatch):
    run(monkeypatch, ['internimage', 'new', 'pets', '--model', 'faster_rcnn_small'])
    return place / 'work_dirs' / 'pets' / 'pets_faster_rcnn_small.py'


RECIPES = [words for words in commands('recipes.md') if words[0] == 'internimage']


@pytest.mark.slow
@pytest.mark.parametrize('words', RECIPES, ids=lambda words: ' '.join(words[3:]))
def test_command_of_a_recipe(words, config, monkeypatch):
    if 'tensorboard' in words:
        pytest.importorskip('tensorboard')
    run(monkeypatch, [str(config) if word == 'CONFIG' else word for word in words])
    work_dir = config.parents[1] / config.stem
    assert (work_dir / 'epoch_1.pth').exists()
    if 'tensorboard' in words:
        assert list(work_dir.rglob('events.out.tfevents*'))


LINES = blocks('recipes.md', 'python')


@pytest.mark.slow
@pytest.mark.parametrize(
    'lines', LINES, ids=lambda lines: re.findall(r"type='(\w+)'|(\w+_weight)", lines)[0][0] or 'weight'
)
def test_lines_of_a_recipe(lines, config, place, monkeypatch):
    if 'decode_head' in lines:
        folders.label_maps(place / 'maps', (0, 1, 2))
        run(
            monkeypatch,
            ['internimage', 'new', 'maps', '--task', 'sem', '--model', 'upernet_small', '--out', 'work_dirs/maps'],
        )
        config = place / 'work_dirs' / 'maps' / 'maps_upernet_small.py'
    child = config.with_name('child.py')
    child.write_text(f"_base_ = './{config.name}'\n{lines}")
    words = ['internimage', 'train', str(child)]
    if 'decode_head' in lines:
        words += [
            '--cfg-options',
            'crop_size=(64,64)',
            'image_scale=(96,64)',
            'max_iters=2',
            'val_interval=2',
            'num_workers=0',
            'batch_size=2',
        ]
        monkeypatch.setattr(sys, 'argv', words)
        assert not main()
        assert (place / 'work_dirs' / 'child' / 'iter_2.pth').exists()
    else:
        run(monkeypatch, words)
        assert (place / 'work_dirs' / 'child' / 'epoch_1.pth').exists()


@pytest.mark.slow
def test_two_processes(config, place):
    if torch.cuda.device_count() < 2:
        pytest.skip('needs two GPUs: mmengine gives every process one')
    (words,) = [words for words in commands('recipes.md') if words[0] == 'torchrun']
    words = [str(config) if word == 'CONFIG' else word for word in words]
    options = [*SHORT, 'image_scale=(96,64)', 'batch_size=2']
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', *words[1:], '--cfg-options', *options],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (place / 'work_dirs' / config.stem / 'epoch_1.pth').exists()
