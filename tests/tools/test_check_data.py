"""Wrong data in `internimage train` and `internimage test`: one line before anything is written."""

import subprocess
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
from test_tools import SIZE, call, fails, write_config

ROOT = Path(__file__).resolve().parents[2]

LABELS = np.zeros(SIZE, np.uint8)
LABELS[5:30, 7:20] = 1
WRONG = {
    'values 0 and 255': (LABELS * 255, 'hold the values 0, 255 alone'),
    'beyond': (LABELS * 7, 'the value 7 (325 pixels)'),
    'half the size': (LABELS[::2, ::2], '32 x 24 pixels and its image'),
    'colours': (np.dstack([LABELS, LABELS * 9, LABELS]), '2 colours, such as (0, 0, 0), (1, 9, 1)'),
}


def write(root, labels=LABELS, images=4):
    rng = np.random.default_rng(0)
    for number in range(images):
        mmcv.imwrite(rng.integers(0, 256, (*SIZE, 3), np.uint8), str(root / f'images/{number}.png'))
        mmcv.imwrite(labels, str(root / f'labels/{number}.png'))
    return root


@pytest.fixture
def work(tmp_path, monkeypatch):
    work = tmp_path / 'work'
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.mark.parametrize('kind', WRONG)
def test_wrong_label_maps(kind, work, tmp_path, capsys):
    labels, message = WRONG[kind]
    config = write_config(tmp_path, 'segmentor', write(tmp_path / 'data', labels))
    assert message in fails(capsys, work, 'train', config)
    assert message in fails(capsys, work, 'test', config, 'any.pth')


@pytest.mark.parametrize('wrong, workers', [('images/2.png', 0), ('labels/2.png', 0), ('labels/2.png', 2)])
def test_what_the_sample_did_not_show_ends_the_run_with_its_name(wrong, workers, work, tmp_path):
    """In a process of its own: the queues of worker processes that end with an error close while it ends."""
    root = write(tmp_path / 'data')
    config = write_config(tmp_path, 'segmentor', root, f'train_dataloader.update(num_workers={workers})\n')
    (root / wrong).write_bytes((root / wrong).read_bytes()[:-40])
    command = [sys.executable, '-m', 'internimage', 'train', config, '--check-data', 'off', '--work-dir', work / 'run']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert line.startswith(f'error: {root / wrong}: ') and len(line) < 400


def test_notes_and_thin_images_of_any_suffix(work, tmp_path, capfd):
    """Resized as the demo's config does, an image of one row would have none."""
    root = write(tmp_path / 'data')
    rng = np.random.default_rng(0)
    mmcv.imwrite(rng.integers(0, 256, (1, 900, 3), np.uint8), str(root / 'images/4.JPG'))
    mmcv.imwrite(np.eye(1, 900, 3, np.uint8), str(root / 'labels/4.png'))
    extra = """
train_dataloader['dataset']['pipeline'][2:2] = [dict(type='Resize', scale=(64, 48), keep_ratio=True)]
train_dataloader['dataset']['pipeline'][3:3] = [dict(type='RandomCrop', crop_size=(48, 64))]
train_dataloader['batch_size'] = 5
"""
    config = write_config(tmp_path, 'segmentor', root, extra)
    assert call('train', config) == 0
    out = capfd.readouterr().out
    assert 'note: train data: 1 images with the suffix .JPG besides .png' in out
    assert (work / 'work_dirs/segmentor/epoch_1.pth').is_file()
