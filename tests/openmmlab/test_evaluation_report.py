"""The numbers of `internimage test --report`, and its page."""

import numpy as np
import pytest
from PIL import Image

from internimage.openmmlab import evaluation_report as report

META = dict(classes=('cat', 'dog', 'cow'), palette=[(255, 0, 0), (0, 255, 0), (0, 0, 255)])


def result(truth, found, crowds=(), file='x.png'):
    """`truth`: (label, box), `crowds` the same; `found`: (label, score, box)."""
    everything = [*truth, *crowds]
    return dict(
        file=file,
        shape=(60, 80),
        boxes=np.array([box for _, _, box in found], np.float32).reshape(-1, 4),
        scores=np.array([score for _, score, _ in found], np.float32),
        labels=np.array([label for label, _, _ in found], int),
        truth=dict(
            boxes=np.array([box for _, box in everything], np.float32).reshape(-1, 4),
            labels=np.array([label for label, _ in everything], int),
            ignored=np.array([i >= len(truth) for i in range(len(everything))], bool),
        ),
    )


A, B, C = (0, 0, 10, 10), (20, 0, 40, 10), (50, 20, 70, 50)


def test_matching_is_one_to_one_and_the_largest_overlap_comes_first():
    # Two detections on A: (0, 0, 10, 8) overlaps it by 0.8, (0, 0, 10, 6) by 0.6. B is found as a dog, C by 0.1 alone.
    found = [(0, 0.9, (0, 0, 10, 6)), (0, 0.5, (0, 0, 10, 8)), (1, 0.8, B), (2, 0.9, (50, 20, 70, 23)), (0, 0.1, C)]
    pairs, missed, over = report.match(result([(0, A), (0, B), (2, C)], found))
    assert sorted(pairs) == [(0, 1), (1, 2)]
    assert missed.tolist() == [2] and over.tolist() == [0, 3]  # 4 is under the score
    matrix = report.object_matrix([result([(0, A), (0, B), (2, C)], found)], 3)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0]]


def test_detections_in_a_crowd_do_not_count():
    found = [(0, 0.9, (52, 22, 60, 30)), (0, 0.9, (0, 40, 8, 48))]
    _, missed, over = report.match(result([], found, crowds=[(0, C)]))
    assert missed.tolist() == [] and over.tolist() == [1]


def test_pixels_and_iou():
    truth = np.array([[0, 0, 1, 1], [2, 2, 255, 1]])
    found = np.array([[0, 1, 1, 1], [2, 0, 0, 0]])
    matrix = report.pixel_matrix(truth, found, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    values = report.ious(matrix)
    assert np.allclose(values[:3], [1 / 4, 2 / 4, 1 / 2]) and np.isnan(values[3])


def test_average_precision_by_hand():
    # Class 0: two objects; in the order of the scores right, wrong, right: at every IoU the precision is 1 up to a
    # recall of 0.5 (51 of 101 points), then 2/3. Class 1: one object, found with an IoU of 0.6: right up to 0.6.
    images = [
        result([(0, A), (0, B)], [(0, 0.9, A), (0, 0.8, C), (0, 0.7, B)]),
        result([(1, A)], [(1, 0.9, (0, 0, 10, 6))], file='y.png'),
    ]
    precision = report.coco_precision(images, 3, 'bbox')
    assert precision.shape == (10, 101, 3)
    ap = report.mean_precision(precision)
    assert np.allclose(ap[:2], [(51 + 50 * 2 / 3) / 101, 0.3], atol=1e-6) and np.isnan(ap[2])
    assert np.allclose(report.mean_precision(precision[:1])[:2], [ap[0], 1])


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.full((60, 80, 3), 128, np.uint8)).save(tmp_path / 'x.png')
    return str(tmp_path / 'x.png')


def test_page_of_a_detector(photo):
    one = result([(0, A), (2, C)], [(1, 0.9, A)], file=photo)
    text = report.detection_page([one], META, 'epoch_3.pth')
    assert '1 missed, 0 of nothing, 1 of another class' in text
    assert text.count('<svg') == 2 and text.count('data:image/jpeg') == 1
    assert '<td>cat</td>' in text and 'epoch_3.pth' in text
    assert 'nan' not in text.split('<svg')[0]


def test_page_without_any_detection(photo):
    text = report.detection_page([result([(0, A)], [], file=photo)], META, 'x')
    assert '1 missed' in text


def test_names_are_escaped(photo):
    meta = dict(META, classes=('<b>', 'dog', 'cow'))
    text = report.detection_page([result([(0, A)], [(0, 0.9, A)], file=photo)], meta, '<script>')
    assert '&lt;script&gt;' in text and '<td><b>' not in text


def test_page_of_a_segmentor(photo):
    truth, found = np.zeros((60, 80), int), np.zeros((60, 80), int)
    truth[:, 40:], found[:, 60:] = 1, 1
    one = dict(
        file=photo, matrix=report.pixel_matrix(truth, found, 3), truth=report._png(truth), predicted=report._png(found)
    )
    text = report.segmentation_page([one], META, 'iter.pth')
    assert 'IoU 58.3' in text  # (40 / 60 + 20 / 40) / 2
    assert '<td>cow</td>' in text and '50.0 %' in text  # half of the dogs are cats
