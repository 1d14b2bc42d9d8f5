"""Label maps that hold 0 and 255, or colours, are read as class indices without a conversion on the disk."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from internimage.openmmlab.datasets import checks
from internimage.openmmlab.datasets.checks.errors import DataError
from internimage.openmmlab.datasets.label_maps import label_table

COLOURS = [[0, 0, 128], [128, 0, 0], [4, 200, 9]]


@pytest.fixture
def folder(tmp_path):
    for name in ('images', 'maps'):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((3, 5, 3), np.uint8)).save(tmp_path / 'images' / 'a.jpg')
    return tmp_path


def build(folder, classes, **options):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return DATASETS.build(
            dict(
                type='LabelMapDataset',
                data_root=str(folder),
                data_prefix=dict(img_path='images', seg_map_path='maps'),
                metainfo=dict(classes=classes),
                pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
                **options,
            )
        )


def write(folder, pixels, name='a.png', mode=None):
    Image.fromarray(np.array(pixels, np.uint8), mode).save(folder / 'maps' / name)


def test_colours(folder):
    indices = np.array([[0, 1, 2, 0, 1], [2, 2, 2, 1, 0], [3, 3, 0, 0, 0]])
    write(folder, np.array([*COLOURS, [255, 255, 255]])[indices])
    dataset = build(folder, ('sea', 'land', 'park'), label_values=COLOURS, ignored_values=[[255, 255, 255]])
    labels = dataset[0]['gt_seg_map']
    assert labels.dtype == np.uint8
    assert (labels == np.where(indices == 3, 255, indices)).all()
    assert dataset.metainfo['palette'] == COLOURS


def test_0_and_255_and_an_ignored_value(folder):
    values = [[0, 255, 255, 0, 7], [0, 0, 0, 0, 255], [255, 255, 255, 255, 0]]
    write(folder, values)
    dataset = build(folder, ('no', 'yes'), label_values=[0, 255], ignored_values=[7], ignore_index=2)
    assert (dataset[0]['gt_seg_map'] == np.array([[0, 1, 1, 0, 2], [0, 0, 0, 0, 1], [1, 1, 1, 1, 0]])).all()
    # The same as colours, and as gray with three channels.
    write(folder, np.repeat(np.array(values)[..., None], 3, 2))
    assert (dataset[0]['gt_seg_map'][0] == [0, 1, 1, 0, 2]).all()


def test_a_colour_of_no_class(folder):
    pixels = np.zeros((3, 5, 3), int) + COLOURS[1]
    pixels[1, 2:4] = 1, 2, 3
    write(folder, pixels)
    with pytest.raises(
        DataError, match=r'a.png: the label map has 1 colours of no class on 2 pixels, such as \(1, 2, 3\)'
    ):
        build(folder, ('sea', 'land', 'park'), label_values=COLOURS)[0]


def test_the_check_before_a_run_reads_by_the_same_table(folder):
    write(folder, [[0, 255, 255, 0, 9]] * 3)
    loader = dict(dataset=dict(type='LabelMapDataset', data_root=str(folder), label_values=[0, 255],
                               data_prefix=dict(img_path='images', seg_map_path='maps'),
                               metainfo=dict(classes=('no', 'yes')),
                               pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]))  # fmt: skip
    cfg = Config(dict(default_scope='mmseg', model=dict(), train_dataloader=loader))
    with pytest.raises(DataError, match='1 values of no class on 3 pixels, such as 9: add them'):
        checks.check_data(cfg, 'train')
    write(folder, [[0, 255, 255, 0, 0]] * 3)
    assert checks.check_data(cfg, 'train') == []


def test_a_lossy_map(folder):
    write(folder, np.zeros((3, 5, 3)), 'a.jpg')
    with pytest.raises(DataError, match='a label map as JPEG has other colours at every edge'):
        build(folder, ('sea', 'land', 'park'), label_values=COLOURS, seg_map_suffix='.jpg')[0]


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ([0, 255], 'has 2 entries for 3 classes'),
        ([0, 1, [2, 3, 4]], 'must be all numbers or all RGB colours'),
        ([0, 1, 65536], 'got 65536'),
        ([[0, 0, 0], [1, 1, 1], [1, 1]], r'got \[1, 1\]'),
        ([0, 1, 1], '1 is there more than once'),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(DataError, match=message):
        label_table(values, classes=('a', 'b', 'c'))
