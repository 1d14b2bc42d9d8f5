"""`internimage browse` and `internimage plot`."""

import json
import sys

import cv2
import numpy as np
import own_data_folders as folders
import pytest

from internimage.openmmlab.cli import browse, plot


@pytest.fixture
def config(tmp_path):
    folders.coco(tmp_path / 'pets')
    (tmp_path / 'own.py').write_text(
        f"""
_base_ = 'internimage::demo/mask_rcnn_internimage_small_coco'
classes = ('cat', 'dog')
data_root = '{tmp_path}/pets/'
train_ann_file = val_ann_file = 'labels.json'
train_images = val_images = 'images/'
image_scale = (128, 96)
"""
    )
    return tmp_path / 'own.py'


def call(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, 'argv', ['internimage', *map(str, arguments)])
    module.main()


def test_browse_draws_what_leaves_the_pipeline(config, tmp_path, monkeypatch, capsys):
    call(monkeypatch, browse, config, '--count', 3, '--views', 2, '--out-dir', tmp_path / 'out')
    pictures = sorted((tmp_path / 'out').glob('*.png'))
    assert [path.name for path in pictures] == [f'0000{i}_{i}_{view}.png' for i in (0, 2, 5) for view in (0, 1)]
    assert '6 pictures of 6 images' in capsys.readouterr().out
    image = cv2.imread(str(pictures[0]))
    assert image.shape == (96 * 4, 128 * 4, 3)  # enlarged four times, as it is under 480
    assert (image == 255).all(2).any()  # the outlines of masks, on a picture of grays up to 230


def test_browse_of_validation_is_at_the_size_of_the_file(config, tmp_path, monkeypatch):
    options = 'val_dataloader.dataset.pipeline.2.with_mask=False'
    call(
        monkeypatch,
        browse,
        config,
        '--split',
        'val',
        '--count',
        1,
        '--out-dir',
        tmp_path / 'out',
        '--cfg-options',
        options,
    )
    image = cv2.imread(str(next((tmp_path / 'out').glob('*.png'))))
    assert image.shape == (48 * 8, 64 * 8, 3)
    x1, y1, x2, y2 = (8 * value for value in folders.boxes(0)[0])
    inside, outside = image[y1 + 30 : y2 - 8, x1 + 8 : x2 - 8], image[y2 + 8 : y2 + 24, x1:x2]
    assert inside.mean() < 40 < 90 < outside.mean()  # the dark rectangle is in its box


def test_browse_errors(config, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, browse, config, '--count', 0)
    assert '--count must be at least 1, got 0' in capsys.readouterr().err


def log(folder, name, records):
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))


@pytest.fixture
def work_dir(tmp_path):
    train = [
        dict(lr=1e-4, loss=10 / step, loss_cls=1.0, time=1.0, epoch=1, iter=step, step=step)
        for step in range(10, 60, 10)
    ]
    log(tmp_path / 'wd', '20260101_000000', [*train, {'coco/bbox_mAP': 0.25, 'step': 1}])
    again = [dict(lr=1e-4, loss=3.0, loss_cls=1.0, epoch=2, iter=step, step=step) for step in (50, 60)]
    log(
        tmp_path / 'wd',
        '20260101_010000',
        [*again, {'coco/bbox_mAP': 0.5, 'step': 2}, {'coco/bbox_mAP': 0.4, 'step': 3}],
    )
    return tmp_path / 'wd'


def test_curves_of_a_run_that_was_resumed(work_dir):
    training, metrics = plot.read_curves(work_dir)
    assert training['loss'] == ([10, 20, 30, 40, 50, 60], [1, 0.5, 10 / 30, 0.25, 3.0, 3.0])
    assert metrics == {'coco/bbox_mAP': ([1, 2, 3], [0.25, 0.5, 0.4])}
    assert 'time' not in training


def test_plot(work_dir, monkeypatch, capsys):
    call(monkeypatch, plot, work_dir)
    assert cv2.imread(str(work_dir / 'curves.png')).shape[1] > 600
    assert 'coco/bbox_mAP: last 0.4, best 0.5 at 2' in capsys.readouterr().out
    call(monkeypatch, plot, work_dir, work_dir, '--keys', 'loss', '--out', work_dir / 'loss.svg')
    assert '<svg' in (work_dir / 'loss.svg').read_text()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere'], 'nowhere is not a folder'),
        (['{}', '--keys', 'los'], 'there is no such curve; there are lr, loss, loss_cls, coco/bbox_mAP'),
        (['{}', '--out', 'x.txt'], '--out x.txt must end in .png, .pdf or .svg'),
        (['{}/20260101_000000/vis_data'], 'no curves: there is no vis_data/scalars.json below it'),
    ],
)
def test_plot_errors(arguments, message, work_dir, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, plot, *(each.format(work_dir) for each in arguments))
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_smoothing_keeps_a_constant():
    assert np.allclose(plot.smooth([2.0] * 50), 2.0)
    assert plot.smooth([0.0] * 20 + [1.0] + [0.0] * 20).max() == pytest.approx(1 / 5)
