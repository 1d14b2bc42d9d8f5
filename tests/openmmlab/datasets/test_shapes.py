import json
import re
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS as MMDET_DATASETS
from mmseg.registry import DATASETS as MMSEG_DATASETS
from pycocotools import mask as rle

from internimage.openmmlab.datasets import generate_shapes, shapes
from internimage.openmmlab.datasets.shapes import __main__ as shapes_command

SIZE = (136, 104)  # width, height
generate = partial(generate_shapes, num_train=4, num_val=2, size=SIZE, seed=3)


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data') / 'shapes'
    generate(root)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob('*') if file.is_file()}


def coco(root: Path, split: str) -> dict:
    return json.loads((root / 'annotations' / f'instances_{split}.json').read_text())


def test_same_arguments_give_the_same_bytes(root, tmp_path):
    generate(tmp_path / 'again')
    assert files(tmp_path / 'again') == files(root)
    assert len(files(root)) == 2 * (4 + 2) + 2 + 1


def test_a_scene_depends_on_seed_split_and_index_alone(root, tmp_path):
    generate(tmp_path / 'fewer', num_train=3, num_val=1)
    generate(tmp_path / 'other', num_train=3, num_val=1, seed=4)
    fewer, other, more = files(tmp_path / 'fewer'), files(tmp_path / 'other'), files(root)
    images = {name for name in fewer if name.endswith('.png')}
    assert len(images) == 8 and all(fewer[name] == more[name] for name in images)
    assert not any(other[name] == more[name] for name in images)
    assert more['images/train/000001.png'] != more['images/val/000001.png']
    shorter = coco(tmp_path / 'fewer', 'train')['annotations']
    assert shorter == coco(root, 'train')['annotations'][: len(shorter)]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_boxes_masks_and_index_images_agree_pixel_by_pixel(root, split):
    content = coco(root, split)
    assert [category['name'] for category in content['categories']] == list(shapes.CLASSES)
    assert len({annotation['id'] for annotation in content['annotations']}) == len(content['annotations'])
    for image in content['images']:
        index = cv2.imread(str(root / 'masks' / split / image['file_name']), cv2.IMREAD_UNCHANGED)
        assert index.dtype == np.uint8 and index.shape == (image['height'], image['width']) == SIZE[::-1]
        assert cv2.imread(str(root / 'images' / split / image['file_name'])).shape == (*index.shape, 3)

        annotations = [one for one in content['annotations'] if one['image_id'] == image['id']]
        assert 3 <= len(annotations) <= 6
        painted = np.zeros_like(index)
        for annotation in annotations:
            mask = rle.decode(annotation['segmentation']).astype(bool)
            assert not painted[mask].any()  # visible parts do not overlap
            painted[mask] = annotation['category_id']
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation['bbox']
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            assert annotation['area'] == mask.sum() >= 60
            assert annotation['iscrowd'] == 0
        np.testing.assert_array_equal(painted, index)


def test_later_shapes_occlude_earlier_ones_and_leave_enough_to_see(monkeypatch):
    polygons, original = [], shapes._coverage

    def coverage(polygon, size):
        polygons.append(polygon)
        return original(polygon, size)

    monkeypatch.setattr(shapes, '_coverage', coverage)
    fractions = []
    for index in range(20):
        polygons.clear()
        _, instances, categories = shapes.draw_scene(np.random.default_rng([0, index]), SIZE)
        # A placement that was accepted is followed by its shadow: the same polygon, moved.
        pairs = zip(polygons, polygons[1:], strict=False)
        placed = [one for one, next in pairs if one.shape == next.shape and np.ptp(one - next, axis=0).max() < 1e-6]
        assert len(placed) == len(categories)
        expected = np.zeros_like(instances)
        for number, polygon in enumerate(placed, start=1):
            expected[original(polygon, SIZE) >= 0.5] = number
        np.testing.assert_array_equal(instances, expected)
        for number, polygon in enumerate(placed, start=1):
            visible, inside = (instances == number).sum(), (original(polygon, SIZE) >= 0.5).sum()
            assert visible >= max(60, 0.5 * cv2.contourArea(polygon.astype(np.float32)))
            fractions.append(visible / inside)
    assert 0.2 < np.mean(np.array(fractions) < 0.95) < 0.8
    assert min(fractions) < 0.6


@pytest.mark.parametrize(
    'name, area',
    [
        ('circle', np.pi),
        ('square', 2),
        ('triangle', 27**0.5 / 4),
        ('star', 5 * 0.45 * np.sin(np.pi / 5)),
        ('ring', np.pi * (1 - 0.55**2)),
    ],
)
def test_coverage_has_the_area_and_place_of_the_shape(name, area):
    coverage = shapes._coverage(np.array([70.3, 48.9]) + 30 * shapes._outline(name), SIZE)
    assert coverage.sum() == pytest.approx(900 * area, rel=0.03)
    x, y = shapes._pixels(SIZE)
    centroid = [(coverage * x).sum() / coverage.sum(), (coverage * y).sum() / coverage.sum()]
    assert centroid == pytest.approx([70.3, 48.9], abs=0.1)
    assert (coverage[48, 70] == 0) == (name == 'ring')


def test_what_is_there_is_kept(root, tmp_path):
    before = {file: file.stat().st_mtime_ns for file in root.rglob('*')}
    generate(root)
    with pytest.raises(FileExistsError, match=r"'seed': 5.*generated with .*'seed': 3.*choose another root"):
        generate(root, seed=5)
    assert {file: file.stat().st_mtime_ns for file in root.rglob('*')} == before

    foreign = tmp_path / 'foreign'
    foreign.mkdir()
    (foreign / 'holiday.png').write_bytes(b'mine')
    with pytest.raises(FileExistsError, match=re.escape(str(foreign)) + '.*no readable generated.json'):
        generate(foreign)
    assert files(foreign) == {'holiday.png': b'mine'}


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(num_val=0), 'num_train and num_val must be at least 1, got 4 and 0'),
        (dict(size=(160, 95)), 'size must be at least 96 x 96 pixels, got 160 x 95'),
        (dict(seed=-1), 'seed must not be negative, got -1'),
    ],
)
def test_arguments_out_of_range(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / 'new' / 'shapes', **arguments)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    scenes = [shapes.draw_scene(np.random.default_rng(0), SIZE)] * 3

    def draw_scene(rng, size):
        if not scenes:
            raise KeyboardInterrupt
        return scenes.pop()

    monkeypatch.setattr(shapes, 'draw_scene', draw_scene)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / 'shapes')
    assert not list(tmp_path.iterdir())


def test_the_slower_of_two_processes_discards_its_copy(root, tmp_path, monkeypatch):
    original = shapes.draw_scene

    def draw_scene(rng, size):
        monkeypatch.setattr(shapes, 'draw_scene', original)
        generate(tmp_path / 'shapes')  # all of it, between the start and the first scene of the slower one
        winner.update({file: file.stat().st_ino for file in (tmp_path / 'shapes').rglob('*')})
        return original(rng, size)

    winner = {}
    monkeypatch.setattr(shapes, 'draw_scene', draw_scene)
    generate(tmp_path / 'shapes')
    assert files(tmp_path / 'shapes') == files(root)
    assert {file: file.stat().st_ino for file in (tmp_path / 'shapes').rglob('*')} == winner
    assert [file.name for file in tmp_path.iterdir()] == ['shapes']


def test_data_sets_generate_on_first_use_and_load(root, tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, 'generate_shapes', generate)
    data_root = str(tmp_path / 'new' / 'shapes')
    boxes = MMDET_DATASETS.build(
        dict(
            type='ShapesDataset',
            data_root=data_root,
            ann_file='annotations/instances_train.json',
            data_prefix=dict(img='images/train/'),
            pipeline=[],
        )
    )
    assert files(Path(data_root)) == files(root)
    monkeypatch.delattr(shapes, 'generate_shapes')  # from here on it is there
    masks = MMSEG_DATASETS.build(
        dict(
            type='ShapesSegDataset',
            data_root=data_root,
            data_prefix=dict(img_path='images/val', seg_map_path='masks/val'),
            pipeline=[],
        )
    )

    assert boxes.metainfo['classes'] == shapes.CLASSES
    assert len(boxes) == 4 and Path(boxes[0]['img_path']).is_file()
    labels = [[instance['bbox_label'] for instance in boxes[image]['instances']] for image in range(4)]
    assert sum(labels, []) == [one['category_id'] - 1 for one in coco(root, 'train')['annotations']]

    assert masks.metainfo['classes'] == ('background', *shapes.CLASSES)
    assert len(masks) == 2 and masks[1]['label_map'] is None and not masks[1]['reduce_zero_label']
    assert Path(masks[1]['img_path']).is_file() and Path(masks[1]['seg_map_path']).is_file()


def test_command_line(root, tmp_path, monkeypatch, capsys):
    options = ['--num-train', '4', '--num-val', '2', '--size', '136', '104', '--seed', '3']
    monkeypatch.setattr(sys, 'argv', ['shapes.py', str(tmp_path / 'shapes'), *options])
    shapes_command.main()
    assert files(tmp_path / 'shapes') == files(root)

    monkeypatch.setattr(sys, 'argv', ['shapes.py', str(root)])
    with pytest.raises(SystemExit, match='2'):
        shapes_command.main()
    assert 'error: root must hold what these arguments give' in capsys.readouterr().err
