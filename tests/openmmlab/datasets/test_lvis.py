"""The metric of LVIS, on one image small enough to count by hand."""

import json

import pytest
import torch

from internimage.openmmlab.datasets import LVISFasterDataset, LVISFasterMetric
from internimage.openmmlab.datasets.checks.errors import DataError

BOX, ELSEWHERE = [10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 90.0, 90.0]  # x1, y1, x2, y2
NAMES = ('rare', 'common', 'frequent', 'absent', 'unchecked')


@pytest.fixture
def ann_file(tmp_path):
    """An object of each of the classes 0, 1, 2 at BOX; of class 2 there may be more; class 3 is not in the image, and
    nobody looked for class 4."""
    x1, y1, x2, y2 = BOX
    box = dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1), segmentation=[[x1, y1, x2, y1, x2, y2]])
    content = dict(
        images=[
            dict(
                id=7,
                width=100,
                height=100,
                coco_url='http://images.cocodataset.org/val2017/000000000007.jpg',
                neg_category_ids=[4],
                not_exhaustive_category_ids=[3],
            )
        ],
        categories=[
            dict(id=i + 1, name=name, frequency=frequency)
            for i, (name, frequency) in enumerate(zip(NAMES, 'rcffr', strict=True))
        ],
        annotations=[dict(id=i + 1, image_id=7, category_id=i + 1, **box) for i in range(3)],
    )
    path = tmp_path / 'lvis.json'
    path.write_text(json.dumps(content))
    return path


def evaluate(ann_file, detections, classes=NAMES, **options):
    """`detections`: (label, box, score)"""
    metric = LVISFasterMetric(ann_file=str(ann_file), **options)
    metric.dataset_meta = dict(classes=classes)
    labels, boxes, scores = zip(*detections, strict=True)
    prediction = dict(
        labels=torch.tensor(labels), bboxes=torch.tensor(boxes).reshape(-1, 4), scores=torch.tensor(scores)
    )
    metric.process({}, [dict(img_id=7, ori_shape=(100, 100), pred_instances=prediction)])
    return metric.evaluate(size=1)


def test_every_class_counts_the_same(ann_file):
    found = evaluate(ann_file, [(0, BOX, 0.9), (1, BOX, 0.9)], classwise=True)
    assert found['lvis/bbox_AP'] == pytest.approx(2 / 3)  # class 2 is missed
    assert (found['lvis/bbox_APr'], found['lvis/bbox_APc'], found['lvis/bbox_APf']) == pytest.approx((1, 1, 0))
    assert [found[f'lvis/bbox_AP_{name}'] for name in NAMES] == pytest.approx([1, 1, 0, -1, -1])


@pytest.mark.parametrize('label, expected', [(0, 0.5), (2, 1.0), (4, 1.0)])
def test_a_false_positive_where_it_can_be_known_as_one(ann_file, label, expected):
    """It costs half the AP of its class where the image has all objects of the class; no more where some may be missing
    (2), and where the class was not looked for (4)."""
    right = [(i, BOX, 0.5) for i in range(3)]
    found = evaluate(ann_file, [(label, ELSEWHERE, 0.9), *right], classwise=True)
    assert found[f'lvis/bbox_AP_{NAMES[label]}'] == pytest.approx(expected if label != 4 else -1)
    assert found['lvis/bbox_AP'] == pytest.approx((2 + expected) / 3)


def test_300_boxes_count(ann_file):
    many = [(0, ELSEWHERE, 0.9)] * 150 + [(0, BOX, 0.5)] + [(1, BOX, 0.5)]
    assert evaluate(ann_file, many, classwise=True)['lvis/bbox_AP_rare'] == pytest.approx(1 / 151)


def test_nothing_found_is_zero(ann_file):
    assert evaluate(ann_file, [(0, ELSEWHERE, 0.9)])['lvis/bbox_AP'] == 0


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(metric='proposal'), "metric must be 'bbox' or 'segm' or a list of them, got 'proposal'"),
        (dict(ann_file=None), 'ann_file must be a file of LVIS v1, got None'),
    ],
)
def test_errors(ann_file, options, message):
    with pytest.raises(ValueError, match=message):
        LVISFasterMetric(**{'ann_file': str(ann_file), **options})


def load(ann_file, classes=NAMES):
    return LVISFasterDataset(
        ann_file=str(ann_file),
        data_root='/data/lvis_v1/',
        data_prefix=dict(img=''),
        metainfo=dict(classes=classes) if classes else None,
        pipeline=[],
        test_mode=True,
    )


@pytest.mark.parametrize('classes', [('frequent', 'rare'), ('unchecked', 'common', 'frequent', 'rare', 'absent')])
def test_label_i_is_class_i(ann_file, classes):
    entry = load(ann_file, classes).get_data_info(0)
    names = [name for name in NAMES[:3] if name in classes]  # of the objects
    assert [classes[instance['bbox_label']] for instance in entry['instances']] == names
    found = evaluate(ann_file, [(classes.index('rare'), BOX, 0.9)], classes, classwise=True)
    assert {name: found[f'lvis/bbox_AP_{name}'] for name in names} == {name: float(name == 'rare') for name in names}
    assert not {f'lvis/bbox_AP_{name}' for name in NAMES if name not in classes} & set(found)


def test_the_published_list_goes_by_the_ids(tmp_path):
    """Its files say speaker_(stero_equipment), mmdet's list says stereo."""
    names = LVISFasterDataset.METAINFO['classes']
    spelt = [name.replace('(stereo_', '(stero_') for name in names]
    assert spelt != list(names)
    rows = [dict(id=index + 1, name=name, frequency='f') for index, name in enumerate(spelt)]
    image = dict(id=7, coco_url='http://x/val2017/7.jpg', height=100, width=100)
    box = dict(image_id=7, bbox=[1, 2, 30, 40], area=1200)
    last = len(names)
    marks = [dict(box, id=number, category_id=id) for number, id in enumerate((1, 948, last), start=1)]
    path = tmp_path / 'lvis.json'
    path.write_text(json.dumps(dict(images=[image], annotations=marks, categories=rows[::-1])))
    assert [i['bbox_label'] for i in load(path, None).get_data_info(0)['instances']] == [0, 947, last - 1]


def test_a_class_that_is_not_there(ann_file):
    with pytest.raises(DataError, match="no category 'comon' .nearest: 'common'"):
        load(ann_file, ('rare', 'comon'))
    with pytest.raises(DataError, match="no category 'aerosol_can'.* of the 1203 classes"):
        load(ann_file, None)


def test_only_predicted_images_count(ann_file):
    content = json.loads(ann_file.read_text())
    content['images'].append(dict(content['images'][0], id=8, coco_url='http://x/val2017/8.jpg'))
    content['annotations'] += [dict(mark, id=mark['id'] + 3, image_id=8) for mark in content['annotations']]
    ann_file.write_text(json.dumps(content))
    assert evaluate(ann_file, [(label, BOX, 0.9) for label in range(3)])['lvis/bbox_AP'] == pytest.approx(1)


def test_frequencies_are_needed(ann_file):
    content = json.loads(ann_file.read_text())
    del content['categories'][1]['frequency']
    ann_file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="category 'common' has no frequency"):
        LVISFasterMetric(ann_file=str(ann_file))


def test_dataset_finds_the_images_by_their_address(ann_file):
    dataset = load(ann_file)
    entry = dataset.get_data_info(0)
    assert entry['img_path'] == '/data/lvis_v1/val2017/000000000007.jpg'
    assert [instance['bbox_label'] for instance in entry['instances']] == [0, 1, 2]
    assert 'file_name' not in json.loads(ann_file.read_text())['images'][0]
