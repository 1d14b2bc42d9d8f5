"""Results: picking detections, drawing, and the formats that they turn into."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from internimage.openmmlab import Results, to_coco
from internimage.openmmlab.drawing import draw_label_map
from internimage.openmmlab.large_images import decode_box, run_length

SHAPE = 40, 60
NAMES = ('cat', 'dog', 'bird')
PALETTE = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


def rectangle(x1, y1, x2, y2) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[y1:y2, x1:x2] = True
    return mask


@pytest.fixture
def found() -> Results:
    """A dog and a cat with masks as large as their boxes but for a hole in the cat."""
    boxes = [(6, 4, 30, 20), (30, 10, 60, 40)]
    masks = [rectangle(*box) for box in boxes]
    masks[1][20:25, 40:45] = False
    return Results(
        NAMES, PALETTE, SHAPE, np.array(boxes, np.float32), np.array([0.9, 0.4], np.float32), np.array([1, 0]),
        [run_length(mask) for mask in masks], image=np.full((*SHAPE, 3), 50, np.uint8), path='folder/x.png',
    )  # fmt: skip


@pytest.fixture
def regions() -> Results:
    """A segmentor's: bird but for 10 x 20 pixels of dog."""
    labels = np.full(SHAPE, 2, np.uint8)
    labels[5:15, 10:30] = 1
    return Results(NAMES, PALETTE, SHAPE, label_map=labels, image=np.zeros((*SHAPE, 3), np.uint8))


@pytest.mark.parametrize(
    'key, picked',
    [
        (1, [1]),
        (-1, [1]),
        (slice(0, 1), [0]),
        ([1, 0], [1, 0]),
        (np.array([False, True]), [1]),
        (np.array([False, False]), []),
        ([], []),
    ],
)
def test_indexing_acts_on_all_parts(key, picked, found):
    part = found[np.array(key, int) if isinstance(key, list) else key]
    assert len(part) == len(picked) == len(part.boxes) == len(part.scores) == len(part.labels)
    np.testing.assert_array_equal(part.boxes, found.boxes[picked])
    np.testing.assert_array_equal(part.masks, found.masks[picked])
    assert [part.names[label] for label in part.labels] == [('dog', 'cat')[i] for i in picked]
    assert part.class_names.tolist() == [('dog', 'cat')[i] for i in picked]
    assert part.path == found.path and part.shape == SHAPE
    assert len(found) == 2


def test_what_cannot_be_picked(found, regions):
    with pytest.raises(IndexError):
        found[2]
    with pytest.raises(TypeError, match='label_map'):
        regions[0]
    assert [one.scores.tolist() for one in found] == [[pytest.approx(0.9)], [pytest.approx(0.4)]]
    assert 'dog' in repr(found) and 'dog, bird' in repr(regions)


def test_plot_leaves_out_low_scores_and_the_image_alone(found):
    drawn = found.plot(score_thr=0.5, least_side=0)
    assert drawn.shape == (*SHAPE, 3)
    assert tuple(drawn[12, 29]) != (50, 50, 50)  # in the dog
    assert (drawn[30:, 32:] == 50).all()  # in the cat
    assert (found.image == 50).all()
    assert found.plot().shape == (8 * SHAPE[0], 8 * SHAPE[1], 3)
    assert (found[:0].plot(least_side=0) == 50).all()


def test_a_mask_is_blended_in_its_color():
    """80 % of the class's color and 20 % of the image, inside its white outline."""
    mask = rectangle(5, 5, 55, 35)
    result = Results(
        NAMES, [(100, 100, 100)] * 3, SHAPE, np.array([[5, 5, 55, 35]], np.float32), np.ones(1), np.array([0]),
        [run_length(mask)], image=np.full((*SHAPE, 3), 50, np.uint8),
    )  # fmt: skip
    shade = np.random.RandomState(0).uniform(-64, 64, (1, 3))[0]
    np.testing.assert_array_equal(result.plot(least_side=0)[30, 30], (0.2 * 50 + 0.8 * (100 + shade)).round())


def test_label_maps_are_named_in_their_widest_row():
    labels = np.full((300, 90), 2)
    labels[260:280, 20:80] = 1  # widest in the second band of rows
    labels[10, 5:15] = 1
    labels[0, :40] = 255
    drawn = draw_label_map(np.zeros((300, 90, 3), np.uint8), labels, NAMES, PALETTE)
    assert (
        tuple(drawn[0, 3]) == (0, 0, 0)
        and tuple(drawn[150, 80]) == (0, 0, 100)
        and tuple(drawn[278, 25]) == (0, 100, 0)
    )
    assert (drawn[260:275, 50:] == 255).any() and not (drawn[11:255, :] == (0, 100, 0)).all(2).any()


def test_save_writes_what_the_suffix_says(found, regions, tmp_path):
    found.save(tmp_path / 'new' / 'x.png', score_thr=0)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'new' / 'x.png'))[..., ::-1], found.plot(0))
    found.save(tmp_path / 'x.json', score_thr=0.5)
    assert [shape['label'] for shape in json.loads((tmp_path / 'x.json').read_text())['shapes']] == ['dog']
    regions.save(tmp_path / 'x.txt')
    assert (tmp_path / 'x.txt').read_text().splitlines()[0].startswith('1 ')
    with pytest.raises(ValueError, match=r'x\.xyz: no image format'):
        found.save(tmp_path / 'x.xyz')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['new', 'x.json', 'x.txt']


def test_coco(found, tmp_path):
    content = found.to_coco(image_id=7, first_id=5)
    assert content['images'] == [dict(id=7, file_name='x.png', height=40, width=60)]
    assert content['categories'] == [dict(id=i, name=name) for i, name in enumerate(NAMES, 1)]
    dog, cat = content['annotations']
    assert (dog['id'], dog['image_id'], dog['category_id'], dog['bbox']) == (5, 7, 2, [6, 4, 24, 16])
    assert (cat['id'], cat['category_id'], cat['bbox'], cat['area']) == (6, 1, [30, 10, 30, 30], 900 - 25)
    assert found.to_coco(category_ids=[3, 7, 9])['annotations'][0]['category_id'] == 7
    (tmp_path / 'x.json').write_text(json.dumps(content))
    coco = COCO(tmp_path / 'x.json')
    np.testing.assert_array_equal(coco.annToMask(coco.anns[6]), found.masks[1])
    assert coco.loadRes(content['annotations']).anns[1]['score'] == 0.9


def test_coco_of_several_images(found, regions):
    content = to_coco([found, regions, found[:1]])
    assert [image['id'] for image in content['images']] == [1, 2, 3]
    assert [annotation['id'] for annotation in content['annotations']] == [1, 2, 3, 4, 5]
    assert [annotation['image_id'] for annotation in content['annotations']] == [1, 1, 2, 2, 3]
    assert [annotation.get('score') for annotation in content['annotations']] == [0.9, 0.4, None, None, 0.9]


def test_labelme(found, regions):
    content = found.to_labelme()
    assert (content['imagePath'], content['imageHeight'], content['imageWidth']) == ('x.png', 40, 60)
    dog = content['shapes'][0]
    assert dog['label'] == 'dog' and dog['shape_type'] == 'polygon' and dog['description'] == 'score 0.900'
    assert sorted(map(tuple, dog['points'])) == [(6, 4), (6, 19), (29, 4), (29, 19)]  # centres of its corner pixels
    boxes = Results(NAMES, PALETTE, SHAPE, found.boxes, found.scores, found.labels)
    assert boxes.to_labelme()['shapes'][1]['points'] == [[30, 10], [60, 40]]
    assert [shape['label'] for shape in regions.to_labelme()['shapes']] == ['dog', 'bird']


def test_a_mask_in_parts_is_one_group():
    mask = rectangle(0, 0, 10, 10) | rectangle(20, 0, 50, 10)
    result = Results(
        NAMES, PALETTE, SHAPE, np.zeros((1, 4), np.float32), np.ones(1), np.array([0]), [run_length(mask)]
    )  # fmt: skip
    shapes = result.to_labelme()['shapes']
    assert len(shapes) == 2 and {shape['group_id'] for shape in shapes} == {0}
    xs = np.array(result.to_yolo().split()[1:], float)[::2] * 60
    assert xs.min() == pytest.approx(20, abs=1e-3) and xs.max() == pytest.approx(49, abs=1e-3)  # the larger part


def test_yolo(found):
    boxes = Results(NAMES, PALETTE, SHAPE, found.boxes, found.scores, found.labels)
    assert boxes.to_yolo().splitlines()[0] == '1 0.300000 0.300000 0.400000 0.400000'
    assert boxes.to_yolo(scores=True).splitlines()[1] == '0 0.750000 0.625000 0.500000 0.750000 0.40000'
    label, *points = found.to_yolo().splitlines()[0].split()
    corners = np.array(points, float).reshape(-1, 2) * [60, 40]
    np.testing.assert_allclose(sorted(corners.tolist()), [[6, 4], [6, 19], [29, 4], [29, 19]], atol=1e-3)
    assert label == '1'


def test_supervision(found, regions):
    pytest.importorskip('supervision')
    detections = found.to_supervision()
    np.testing.assert_array_equal(detections.xyxy, found.boxes)
    np.testing.assert_array_equal(detections.mask, found.masks)
    assert detections.class_id.tolist() == [1, 0] and detections['class_name'].tolist() == ['dog', 'cat']
    np.testing.assert_array_equal(detections[detections.confidence > 0.5].xyxy, found[:1].boxes)
    assert regions.to_supervision().class_id.tolist() == [1, 2]
    assert len(found[:0].to_supervision()) == 0


@given(st.data())
def test_run_length_codes(data):
    """Of a part of an image, and decoded without the image around it, as pycocotools has them."""
    height, width = data.draw(st.integers(1, 25)), data.draw(st.integers(1, 25))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    mask = np.zeros((height, width), bool)
    part = rng.random((height - top, width - left)) < data.draw(st.sampled_from([0, 0.1, 0.5, 0.95, 1]))
    mask[top:, left:] = part
    code = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    assert run_length(part, (height, width), (top, left)) == code
    box, row, column = decode_box(code)
    again = np.zeros_like(mask)
    again[row : row + box.shape[0], column : column + box.shape[1]] = box
    np.testing.assert_array_equal(again, mask)
    assert not box.size or (box.any(0)[[0, -1]].all() and box.any(1)[[0, -1]].all())
