"""Annotations that are not COCO's json: names that are no class are counted, broken files named."""

import json
import re

import pytest
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from internimage.openmmlab.datasets.checks.errors import DataError
from internimage.openmmlab.datasets.checks.voc import check_crowd_human, check_open_images, check_voc

OBJECT = '<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
SIZE_TAG = '<size><width>64</width><height>48</height></size>'


@pytest.fixture
def voc(tmp_path):
    """Writes a data set, {image: (suffix, [(name, x1, y1, x2, y2)] or text)}, and builds it."""

    def make(images, classes=('cat', 'dog'), **options):
        for folder in ('JPEGImages', 'Annotations'):
            (tmp_path / folder).mkdir(exist_ok=True)
        for name, (suffix, objects) in images.items():
            if suffix:
                Image.new('RGB', (64, 48)).save(tmp_path / f'JPEGImages/{name}{suffix}')
            text = objects
            if not isinstance(objects, str):
                text = f'<annotation>{SIZE_TAG}{"".join(OBJECT.format(*one) for one in objects)}</annotation>'
            (tmp_path / f'Annotations/{name}.xml').write_text(text)
        (tmp_path / 'train.txt').write_text('\n'.join(images))
        kind = dict(
            type='XMLDataset', data_root=str(tmp_path), ann_file='train.txt', data_prefix=dict(sub_data_root='')
        )
        with DefaultScope.overwrite_default_scope('mmdet'):
            return DATASETS.build(dict(kind, lazy_init=True, metainfo=dict(classes=classes), **options))

    return make


TWO = {'a': ('.jpg', [('cat', 1, 1, 20, 20)]), 'b': ('.jpg', [('dog', 5, 5, 30, 40), ('bird', 5, 5, 9, 9)])}


def test_names_that_are_no_class_are_counted(voc):
    assert [note.split(': ', 1)[1] for note in check_voc(voc(TWO), 'here')] == [
        "1 objects are of no class: left out, 'bird' (1)"
    ]
    assert check_voc(voc(TWO, ('cat', 'dog', 'bird')), 'here') == []
    notes = check_voc(voc(TWO, ('cat', 'dog', 'bird', 'zebra')), 'here')
    assert "1 classes have no object: 'zebra'" in notes[0]


@pytest.mark.parametrize('suffix', ['.JPG', '.jpeg', '.png', '.tif'])
def test_images_of_every_suffix(voc, tmp_path, suffix):
    dataset = voc({**TWO, 'c': (suffix, [('cat', 1, 1, 20, 20)])})
    assert any('1 images have another suffix' in note for note in check_voc(dataset, 'here'))
    dataset.full_init()
    names = [dataset.get_data_info(i)['img_path'] for i in range(3)]
    assert names == [f'{tmp_path}/JPEGImages/{name}' for name in ('a.jpg', 'b.jpg', f'c{suffix}')]


def box(*corners):
    return {**TWO, 'c': ('.jpg', [('cat', 1, 1, 2, 2), ('dog', *corners)])}


@pytest.mark.parametrize(
    'images, options, message',
    [
        (TWO, dict(classes=('Cat', 'dog')), "no object is called 'Cat'.* but 1 are called 'cat'"),
        (TWO, dict(classes=('zebra',)), "no object is of the classes zebra; their names are 'cat' .1., 'dog'"),
        (TWO, dict(classes='cat'), "got the text 'cat'"),
        (TWO, dict(classes=()), 'at least one name'),
        (
            TWO,
            dict(filter_cfg=dict(min_size=100)),
            'all 2 images are filtered away: 0 without .*, 2 with a side of less',
        ),
        ({**TWO, 'c': (None, [('cat', 1, 1, 2, 2)])}, {}, '1 of 3 images do not exist, the first is .*c.jpg'),
        ({**TWO, 'c': ('.jpg', '<annotation><object>')}, {}, 'c.xml: not xml, or broken off'),
        ({**TWO, 'c': ('.jpg', '')}, {}, 'c.xml: not xml'),
        (box(9, 9, 3, 12), {}, r'c.xml: object 2 \(dog\) has the box'),
        (box('nan', 9, 30, 12), {}, r'c.xml: object 2 \(dog\) has the box'),
        (box('', 9, 30, 12), {}, r'c.xml: object 2 \(dog\) has the box'),
        (box('left', 9, 30, 12), {}, r'c.xml: object 2 \(dog\) has the box'),
        ({}, {}, 'lists no image'),
    ],
)
def test_refused(voc, images, options, message):
    with pytest.raises(DataError, match=message) as error:
        check_voc(voc(images, **options), 'here')
    assert '\n' not in str(error.value) and str(error.value).startswith('here: ')


def test_boxes_without_area_are_counted(voc):
    assert any('1 boxes have no area' in note for note in check_voc(voc(box(9, 9, 9, 12)), 'here'))


def test_real_data(shared):
    root = shared / 'data/bccd/BCCD'
    kind = dict(type='XMLDataset', data_root=str(root), ann_file='ImageSets/Main/trainval.txt', lazy_init=True)
    with DefaultScope.overwrite_default_scope('mmdet'):
        prefix = dict(sub_data_root='')
        dataset = DATASETS.build(dict(kind, data_prefix=prefix, metainfo=dict(classes=('WBC', 'RBC', 'Platelets'))))
        assert any(re.search('boxes have no area', note) for note in check_voc(dataset, 'here'))
        dataset = DATASETS.build(dict(kind, data_prefix=prefix, metainfo=dict(classes=('WBC', 'rbc', 'Platelets'))))
        with pytest.raises(DataError, match="no object is called 'rbc'.* are called 'RBC'"):
            check_voc(dataset, 'here')


@pytest.mark.parametrize(
    'line, classes, message',
    [
        (None, ('Person',), "no box is of the classes Person; their tags are 'person' .2., 'mask' .1."),
        (
            '{"ID": "b", "gtboxes": [{"tag": "person"}]}',
            ('person',),
            "line 2 is not one of CrowdHuman: KeyError: 'fbox'",
        ),
        ('{"ID": "b", "gtboxes"', ('person',), 'line 2 is not one of CrowdHuman'),
        (
            '{"ID": "b", "gtboxes": [{"tag": "person", "fbox": [NaN, 1, 2, 3]}]}',
            ('person',),
            'line 2 has the fbox .nan',
        ),
    ],
)
def test_crowd_human(tmp_path, line, classes, message):
    people = [
        dict(tag=tag, fbox=[1, 2, 3, 4], hbox=[1, 2, 3, 4], vbox=[1, 2, 3, 4]) for tag in ('person', 'mask', 'person')
    ]
    lines = [json.dumps(dict(ID='a', gtboxes=people)), *([line] if line else [])]
    (tmp_path / 'annotation_train.odgt').write_text('\n'.join(lines))
    (tmp_path / 'id_hw_train.json').write_text('{}')
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(
            dict(
                type='CrowdHumanDataset',
                data_root=str(tmp_path),
                ann_file='annotation_train.odgt',
                data_prefix=dict(img=''),
                metainfo=dict(classes=classes),
                lazy_init=True,
            )
        )
    with pytest.raises(DataError, match=message):
        check_crowd_human(dataset, 'here')


def test_open_images_has_its_own_classes(tmp_path):
    (tmp_path / 'names.csv').write_text('/m/1,cat\n/m/2,dog\n')

    def build(**options):
        kind = dict(type='OpenImagesDataset', data_root=str(tmp_path), ann_file='', lazy_init=True)
        with DefaultScope.overwrite_default_scope('mmdet'):
            files = dict(label_file=str(tmp_path / 'names.csv'), meta_file='', hierarchy_file='')
            return DATASETS.build(dict(kind, **files, **options))

    assert (
        check_open_images(build(), 'here')
        == check_open_images(build(metainfo=dict(classes=('cat', 'dog'))), 'here')
        == []
    )
    with pytest.raises(DataError, match='takes its 2 classes from label_file'):
        check_open_images(build(metainfo=dict(classes=('dog', 'cat'))), 'here')
