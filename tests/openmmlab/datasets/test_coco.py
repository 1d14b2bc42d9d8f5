"""Data sets in COCO's format as people write them: label i is `classes[i]`; what is wrong is mended, or an error."""

import copy
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.registry import DATASETS, METRICS, DefaultScope
from PIL import Image
from pycocotools import mask as coco_mask

from internimage.openmmlab.datasets.checks.coco import (
    check_coco,
    check_coco_metric,
    check_masks,
    read_coco,
    usable_mask,
)
from internimage.openmmlab.datasets.checks.errors import DataError

CLASSES = ('disc', 'box', 'bar')
IDS = dict(disc=3, box=7, bar=9)
SIZE = (48, 64)  # height, width
MASKS = [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]


def content(order=CLASSES, images=2, **image) -> dict:
    """Each image has a disc, a box and a bar from left to right, 10, 12 and 14 pixels wide, 20 high."""
    rows = []
    for number in range(1, images + 1):
        for place, name in enumerate(CLASSES):
            x, y, w, h = 20 * place + 2, 10, 10 + 2 * place, 20
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            ids = dict(id=len(rows) + 1, image_id=number, category_id=IDS[name])
            rows.append(dict(ids, bbox=[x, y, w, h], area=w * h, iscrowd=0, segmentation=[outline]))
    return dict(
        images=[dict(id=i + 1, file_name=f'{i}.png', height=SIZE[0], width=SIZE[1], **image) for i in range(images)],
        annotations=rows,
        categories=[dict(id=IDS[name], name=name) for name in order],
    )


@pytest.fixture
def write(tmp_path):
    """Writes images and an annotation file, and returns the file's path."""

    def write(what, name='train.json', **options):
        (tmp_path / 'images').mkdir(exist_ok=True)
        for image in content(**options)['images']:
            Image.new('RGB', SIZE[::-1]).save(tmp_path / 'images' / image['file_name'])
        path = tmp_path / name
        path.write_bytes(what if isinstance(what, bytes) else json.dumps(what).encode())
        return str(path)

    return write


def build(path, kind='CocoDataset', classes=CLASSES, pipeline=(), lazy=False, **options):
    folder = path.rsplit('/', 1)[0]
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(
            dict(
                type=kind,
                ann_file=path,
                data_prefix=dict(img=f'{folder}/images'),
                metainfo=dict(classes=classes) if classes else None,
                pipeline=list(pipeline),
                lazy_init=lazy,
                serialize_data=False,
                **options,
            )
        )


def check(path, **options):
    return check_coco(build(path, lazy=True, **options), 'here')


def evaluate(path, predictions, classes=CLASSES, kind='CocoMetric', metric='bbox', size=None, **options) -> dict:
    """`predictions`: {image id: [(label, [x1, y1, x2, y2])]}; masks are the boxes."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        measure = METRICS.build(dict(type=kind, ann_file=path, metric=metric, **options))
    measure.dataset_meta = dict(classes=classes)
    for image, found in predictions.items():
        labels, boxes = [label for label, _ in found], [box for _, box in found]
        instances = dict(
            labels=torch.tensor(labels),
            bboxes=torch.tensor(boxes).float().reshape(-1, 4),
            scores=torch.ones(len(found)),
        )
        masks = torch.zeros(len(found), *SIZE, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[y1:y2, x1:x2] = True
        sample = dict(img_id=image, ori_shape=SIZE, pred_instances=dict(instances, masks=masks))
        measure.process({}, [sample])
    return measure.evaluate(size or len(predictions))


def perfect(classes=CLASSES, images=(1, 2)) -> dict:
    objects = [(name, [20 * k + 2, 10, 20 * k + 12 + 2 * k, 30]) for k, name in enumerate(CLASSES) if name in classes]
    return {image: [(classes.index(name), box) for name, box in objects] for image in images}


ORDERS = [('bar', 'box', 'disc'), ('box', 'disc', 'bar'), CLASSES]


@pytest.mark.parametrize('kind', ['CocoDataset', 'Objects365V1Dataset', 'Objects365V2Dataset', 'CityscapesDataset'])
@pytest.mark.parametrize('classes', [CLASSES, ('bar', 'disc'), ('box', 'bar', 'disc')])
@pytest.mark.parametrize('order', ORDERS)
def test_label_i_is_class_i(write, kind, classes, order):
    dataset = build(write(content(order)), kind, classes)
    widths = {'disc': 10, 'box': 12, 'bar': 14}
    for index in range(2):
        found = {
            i['bbox'][2] - i['bbox'][0]: classes[i['bbox_label']] for i in dataset.get_data_info(index)['instances']
        }
        assert found == {widths[name]: name for name in classes}


@pytest.mark.parametrize('kind', ['CocoMetric', 'FasterCocoMetric'])
@pytest.mark.parametrize('classes', [CLASSES, ('bar', 'disc'), ('box', 'bar', 'disc')])
@pytest.mark.parametrize('order', ORDERS)
def test_metric_knows_the_classes(write, kind, classes, order):
    """One class is right, the others are missed: the table has it under its name, in every epoch."""
    path = write(content(order))
    for name in classes:
        right = {
            image: [(label, box) for label, box in found if classes[label] == name]
            for image, found in perfect(classes).items()
        }
        found = evaluate(path, right, classes, kind, classwise=True)
        assert {other: found[f'coco/{other}_precision'] for other in classes} == {o: float(o == name) for o in classes}


def test_metric_over_several_epochs(write):
    with DefaultScope.overwrite_default_scope('mmdet'):
        metric = METRICS.build(dict(type='CocoMetric', ann_file=write(content(('bar', 'disc', 'box')))))
    metric.dataset_meta = dict(classes=('box', 'bar', 'disc'))
    for _ in range(2):
        for image, found in perfect(('box', 'bar', 'disc')).items():
            instances = dict(
                labels=torch.tensor([label for label, _ in found]),
                bboxes=torch.tensor([box for _, box in found]).float(),
                scores=torch.ones(3),
            )
            metric.process({}, [dict(img_id=image, ori_shape=SIZE, pred_instances=instances)])
        assert metric.evaluate(2)['coco/bbox_mAP'] == 1


@pytest.mark.parametrize(
    'classes, message',
    [
        (('disc', 'bxo', 'bar'), r"no category 'bxo' \(nearest: 'box'"),
        (('Disc', 'box'), r"no category 'Disc' \(nearest: 'disc'"),
        (('zebra',), "no category 'zebra' of the 1 classes; it has 'disc', 'box', 'bar'"),
        ((), 'at least one name'),
        ('disc', "got the text 'disc'"),
        (('disc', 'disc'), 'disc is there more than once'),
        (None, "no category 'person'.* of the 80 classes"),
    ],
)
def test_classes_that_cannot_be(write, classes, message):
    path = write(content())
    options = dict(metainfo=dict(classes=classes)) if classes is not None else {}
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = dict(type='CocoDataset', ann_file=path, data_prefix=dict(img=''), **options)
        with pytest.raises(DataError, match=message):
            check_coco(DATASETS.build(dict(dataset, lazy_init=True)), 'here')
        with pytest.raises(DataError, match=message):
            DATASETS.build(dataset)


def test_categories_left_out_and_empty_are_named(write):
    what = content()
    what['categories'].insert(0, dict(id=0, name='things', supercategory='none'))
    notes = check(write(what), classes=('disc', 'bar'))
    assert any(
        "2 of 4 categories are not among the classes: left out, with 2 annotations: 'box' (2)" in n for n in notes
    )
    assert any("1 categories have no annotation: 'things' (id 0)" in note for note in notes)


def test_two_categories_of_one_name(write):
    what = content()
    what['categories'].insert(0, dict(id=0, name='disc', supercategory='none'))
    assert [i['bbox_label'] for i in build(write(what)).get_data_info(0)['instances']] == [0, 1, 2]
    what['annotations'][0]['category_id'] = 0
    with pytest.raises(DataError, match="categories 0, 3 are all called 'disc' and all have annotations"):
        check(write(what, 'other.json'))


def change(key, value, rows='annotations', every=1):
    def apply(what):
        for row in what[rows][::every]:
            row[key] = copy.deepcopy(value) if value is not None else row.pop(key) and None
            if value is None:
                del row[key]

    return apply


def ids(values):
    def apply(what):
        for row, value in zip(what['annotations'], values, strict=True):
            row['id'] = value

    return apply


def text_numbers(what):
    for row in what['annotations']:
        row.update({key: str(row[key]) for key in ('image_id', 'category_id', 'area', 'iscrowd')})
        row['bbox'] = [str(value) for value in row['bbox']]
    for row in what['images'] + what['categories']:
        row.update({key: str(row[key]) for key in ('id', 'height', 'width') if key in row})


def a_stranger(what):
    what['annotations'].append(dict(what['annotations'][0], image_id=77, id=99))


MENDED = {
    'nothing': (lambda what: None, None),
    'ids from 0': (ids(range(6)), 'annotation ids below 1.*all 6 numbered'),
    'ids from -1': (ids(range(-1, 5)), 'annotation ids below 1.*all 6 numbered'),
    'ids of text': (ids('abcdef'), 'annotation ids that are missing or no integers'),
    'one id': (ids([1] * 6), 'annotation ids that are not unique'),
    'no id': (change('id', None), 'annotation ids that are missing'),
    'no iscrowd': (change('iscrowd', None), '6 annotations without iscrowd'),
    'some without iscrowd': (change('iscrowd', None, every=2), '3 annotations without iscrowd'),
    'no area': (change('area', None), '6 annotations without a positive area'),
    'area 0': (change('area', 0), '6 annotations without a positive area'),
    'area NaN': (change('area', math.nan), '6 annotations without a positive area'),
    'no size': (change('width', None, 'images'), '2 images without width and height'),
    'size 0': (change('height', 0, 'images'), '2 images without width and height'),
    'text': (text_numbers, 'numbers that are text'),
    'no bbox': (change('bbox', None), '6 annotations without bbox: computed from the mask'),
    'a stranger': (a_stranger, '1 annotations of images that the file does not list'),
}


@pytest.mark.parametrize('name', MENDED)
def test_mended(write, name):
    """The data set, the metric (boxes and masks) and the truth are as if nothing had been wrong; one line says so."""
    spoil, message = MENDED[name]
    what = content()
    spoil(what)
    path = write(what)
    original = Path(path).read_bytes()
    notes = check(path, pipeline=MASKS)
    matching = [note for note in notes if message and re.search(message, note)]
    assert len(notes) == len(matching) == (message is not None)

    dataset = build(path)
    expected = build(write(content(), 'right.json'))
    assert [dataset.get_data_info(i) for i in range(2)] == [expected.get_data_info(i) for i in range(2)]
    found = evaluate(path, perfect(), metric=['bbox', 'segm'])
    assert (found['coco/bbox_mAP'], found['coco/segm_mAP'], found['coco/bbox_mAP_s']) == (1, 1, 1)
    assert Path(path).read_bytes() == original


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_byte_order_mark(write, encoding):
    assert ['1 byte order mark' in note for note in check(write(json.dumps(content()).encode(encoding)))] == [True]


def test_area_is_that_of_the_mask(write):
    what = content()
    run_lengths = coco_mask.encode(np.asfortranarray(np.pad(np.ones((7, 5), np.uint8), ((9, 32), (3, 56)))))
    what['annotations'][0]['segmentation'] = [[2, 10, 12, 10, 2, 30]]
    what['annotations'][1]['segmentation'] = dict(size=list(SIZE), counts=run_lengths['counts'].decode())
    what['annotations'][2]['segmentation'] = []
    for row in what['annotations']:
        del row['area']
    assert [row['area'] for row in read_coco(write(what)).annotations[:3]] == [100, 35, 14 * 20]


@pytest.mark.parametrize('first', [0, 1])
@pytest.mark.parametrize('count', [1, 2, 8])
def test_exact_predictions_have_ap_1_with_ids_from_0(tmp_path, first, count):
    """By mmdet's class itself, too."""
    boxes = [[20 * k, 10, 15, 40] for k in range(count)]
    rows = [dict(id=first + k, image_id=1, category_id=1, bbox=box, area=600, iscrowd=0) for k, box in enumerate(boxes)]
    image = dict(id=1, file_name='a.png', width=200, height=200)
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(dict(images=[image], categories=[dict(id=1, name='a')], annotations=rows)))
    metric = CocoMetric(str(path), 'bbox')
    metric.dataset_meta = dict(classes=('a',))
    instances = dict(
        bboxes=torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).float(),
        scores=torch.linspace(1, 0.5, count),
        labels=torch.zeros(count, dtype=torch.long),
    )
    metric.process({}, [dict(img_id=1, ori_shape=(200, 200), pred_instances=instances)])
    assert metric.evaluate(1)['coco/bbox_mAP'] == 1


def first(key, value, rows='annotations'):
    def apply(what):
        what[rows][0][key] = value

    return apply


def without(key):
    return lambda what: what.pop(key)


REFUSED = {
    'NaN box': (first('bbox', [math.nan, 3, 10, 10]), r'annotation 1 \(image 1\) has the bbox \[nan, 3, 10, 10\]'),
    'infinite box': (first('bbox', [0, 3, math.inf, 10]), r'bbox \[0, 3, inf, 10\]: it must be four finite numbers'),
    'no number': (first('bbox', [0, 3, 'wide', 10]), r"annotation 1 .* bbox \[0, 3, 'wide', 10\]"),
    'null box': (first('bbox', None), 'annotation 1 .* has the bbox None'),
    'empty box': (first('bbox', []), r'annotation 1 .* has the bbox \[\]'),
    'three numbers': (first('bbox', [1, 2, 3]), r'annotation 1 .* has the bbox \[1, 2, 3\]'),
    'negative box': (first('bbox', [9, 9, -4, 5]), 'annotation 1 .*must not be negative'),
    'box far away': (first('bbox', [1e9, 9, 4, 5]), 'annotation 1 .*far outside its image'),
    'iscrowd 2': (first('iscrowd', 2), 'annotation 1 .*has iscrowd 2: it must be 0 or 1'),
    'unknown category': (first('category_id', 5), r'annotation 1 .*has the category_id 5.*ids 3, 7, 9'),
    'no category': (first('category_id', None), 'annotation 1: category_id must be a number, got None'),
    'unknown images': (
        lambda what: [r.update(image_id=r['image_id'] + 50) for r in what['annotations']],
        'image_id 51 is not',
    ),
    'no name': (lambda what: what['images'][0].pop('file_name'), 'image 1 has no file_name'),
    'one id, two images': (first('id', 2, 'images'), "image id 2 is there twice, as '0.png' and as '1.png'"),
    'one id, two names': (first('id', 7, 'categories'), "category id 7 is there twice, as 'disc' and as 'box'"),
    'negative width': (first('width', -4, 'images'), r'image 1 \(0.png\): width must be a number of pixels, got -4'),
    'other size': (first('width', 70, 'images'), '0.png has 64x48 pixels, .* states 70x48'),
    'missing image': (first('file_name', 'z.png', 'images'), '1 of its 2 images do not exist, the first is .*z.png'),
    'no images': (without('images'), 'has no "images".*it has annotations, categories'),
    'no categories': (without('categories'), 'has no "categories"'),
    'no annotations': (without('annotations'), 'has no annotations: nothing can be trained on'),
    'normalised': (change('bbox', [0.1, 0.2, 0.3, 0.4]), 'none of 6 boxes is a pixel large'),
    'images no list': (lambda what: what.update(images={}), '"images" must be a list, got dict'),
    'annotation no object': (lambda what: what['annotations'].append(3), 'must be a list of objects, got 3'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused(write, name):
    spoil, message = REFUSED[name]
    what = content()
    spoil(what)
    with pytest.raises(DataError, match=message) as error:
        check(write(what))
    assert '\n' not in str(error.value) and str(error.value).startswith('here: ')


@pytest.mark.parametrize(
    'text, message',
    [
        (b'', 'not JSON'),
        (b'{"images": [', 'not JSON, or broken off'),
        (b'[' * 100000, 'not JSON'),
        (b'\xff\xd8\xff\xe0 a photo', 'not JSON'),
        (b'[{"image_id": 1, "score": 0.5}]', r'must be an object.*got list \(a file of results\?\)'),
        (b'3', 'must be an object'),
    ],
)
def test_not_an_annotation_file(write, text, message):
    with pytest.raises(DataError, match=message):
        check(write(text))


def test_what_is_no_file(tmp_path):
    (tmp_path / 'endless.json').symlink_to('/dev/zero')
    for name, message in {'endless.json': 'not a file', 'none.json': 'No such file', '.': 'not a file'}.items():
        with pytest.raises(DataError, match=message):
            read_coco(tmp_path / name)


SQUARE = [2, 10, 12, 10, 12, 30, 2, 30]
BAD_MASKS = {
    'none': ([], 'has no segmentation'),
    'null': (None, 'has no segmentation'),
    'two points': ([[10, 10, 30, 30]], r'\[\[10, 10, 30, 30\]\], in which no polygon has three points'),
    'no point': ([[]], 'no polygon has three points'),
    'NaN': ([[*SQUARE[:-1], math.nan]], 'a polygon with the coordinate nan'),
    'NaN in the second': ([SQUARE, [*SQUARE[:-1], math.nan]], 'a polygon with the coordinate nan'),
    'infinite': ([[*SQUARE[:-1], math.inf]], 'a polygon with the coordinate inf'),
    'far': ([[*SQUARE[:-1], 1e9]], 'the coordinate 1000000000.0, far outside its image of 64x48'),
    'far to the left': ([[-1e9, *SQUARE[1:]]], 'the coordinate -1000000000.0, far outside'),
    'odd': ([SQUARE[:-1]], 'a polygon of 7 numbers'),
    'word': ([[*SQUARE[:-1], 'x']], 'something else than numbers'),
    'number': (5, 'neither polygons nor run lengths'),
    'other size': (dict(size=[64, 48], counts=[0, 3072]), 'run lengths for 48x64 pixels in an image of 64x48'),
    'too long': (dict(size=[48, 64], counts=[0, 10**9]), 'cover 1000000000 pixels of the 3072'),
    'too short': (dict(size=[48, 64], counts=[0, 5]), 'cover 5 pixels of the 3072'),
    'negative': (dict(size=[48, 64], counts=[-5, 3077]), 'run lengths'),
    'other code': (dict(size=[48, 64], counts='\u00e9~~'), "not of COCO's code"),
    'broken off': (dict(size=[48, 64], counts='0P'), 'broken off'),
    'no size': (dict(counts=[0, 3072]), r'with the size None: it must be \[height, width\]'),
    'no counts': (dict(size=[48, 64]), 'whose counts are None'),
}


@pytest.mark.parametrize('name', BAD_MASKS)
def test_masks_that_cannot_be_drawn(write, name):
    """An error where masks are needed, of the check, of the data set and of the metric; without masks all is well."""
    mask, message = BAD_MASKS[name]
    what = content()
    what['annotations'][1]['segmentation'] = mask
    path = write(what)
    with pytest.raises(DataError, match=f'annotation 2 .*{message}'):
        check(path, pipeline=MASKS)
    with pytest.raises(DataError, match=f'annotation 2 .*{message}'):
        build(path, pipeline=MASKS)
    with pytest.raises(DataError, match=f'annotation 2 .*{message}'):
        evaluate(path, perfect(), metric=['segm'])
    with pytest.raises(DataError, match=f'annotation 2 .*{message}'):
        check_coco_metric(dict(ann_file=path, metric=['bbox', 'segm']), [build(path, lazy=True)], 'here')
    assert check(path) == [] and evaluate(path, perfect())['coco/bbox_mAP'] == 1


def test_masks_of_a_file_that_has_none(write):
    what = content()
    change('segmentation', None)(what)
    with pytest.raises(DataError, match=r'annotation 1 .*and 5 more like it\): a detector without masks'):
        check(write(what), pipeline=MASKS)


@pytest.mark.parametrize(
    'mask, expected',
    [
        (SQUARE, [SQUARE]),
        ([SQUARE, [1, 2, 3, 4]], [SQUARE]),
        ([[str(v) for v in SQUARE]], [SQUARE]),
        ([SQUARE], None),
        (dict(size=[48, 64], counts=[10, 20, 3042]), None),
    ],
)
def test_masks_that_are_mended(mask, expected):
    usable = usable_mask(mask, SIZE)
    assert usable == expected if expected else usable is mask


def test_run_lengths_of_pycocotools_are_understood():
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (37, 53), (200, 3), (90, 111)]:
        for share in (0, 0.02, 0.5, 1):
            mask = np.asfortranarray(rng.random((height, width)) < share, np.uint8)
            coded = coco_mask.encode(mask)
            coded['counts'] = coded['counts'].decode()
            assert usable_mask(coded, (height, width)) is coded


def test_backslashes_and_other_suffixes(write, tmp_path):
    what = content(images=4)
    path = write(what, images=4)
    (tmp_path / 'images/sub').mkdir()
    for number, (stated, real) in enumerate(
        [('sub\\0.png', 'sub/0.png'), ('1.jpg', '1.JPG'), ('2.jpg', '2.tif'), ('IMG_3.JPG', 'img_3.jpeg')]
    ):
        what['images'][number]['file_name'] = stated
        (tmp_path / f'images/{number}.png').rename(tmp_path / 'images' / real)
    path = write(what, 'spoilt.json', images=0)
    notes = check(path)
    assert [note.split(': ', 1)[1] for note in notes] == [
        '1 file names with backslashes: read as folders',
        '3 images have another suffix or another case on the disk: found',
    ]
    found = [build(path).get_data_info(i)['img_path'] for i in range(4)]
    assert found == [str(tmp_path / 'images' / name) for name in ('sub/0.png', '1.JPG', '2.tif', 'img_3.jpeg')]
    (tmp_path / 'images/1.png').write_bytes(b'')
    with pytest.raises(DataError, match='1 of its 4 images do not exist, the first is .*1.jpg'):
        check(path)


def save_turned(path, orientation):
    """A photo, stored with 64x48 pixels: white on the left half of the stored pixels."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=95)


LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]


@pytest.mark.parametrize('orientation', [5, 6, 7, 8])
def test_photos_are_read_in_the_frame_that_the_file_states(write, tmp_path, orientation):
    what = content()
    for image in what['images']:
        image['file_name'] = image['file_name'].replace('png', 'jpg')
        save_turned(tmp_path / image['file_name'], orientation)
    path = write(what)
    for image in what['images']:
        (tmp_path / image['file_name']).rename(tmp_path / 'images' / image['file_name'])
    assert '2 photos have an EXIF rotation' in check(path, pipeline=LOAD)[0]
    sample = build(path, pipeline=LOAD)[0]
    assert sample['inputs'].shape == (3, *SIZE) and sample['data_samples'].ori_shape == SIZE
    assert sample['inputs'][:, :, :28].min() > 200 and sample['inputs'][:, :, 36:].max() < 50  # as stored

    upright = copy.deepcopy(what)
    for image in upright['images']:
        image.update(height=SIZE[1], width=SIZE[0])
    upright = write(upright, 'upright.json', images=0)
    assert check(upright, pipeline=LOAD) == []
    assert build(upright, pipeline=LOAD)[0]['inputs'].shape == (3, *SIZE[::-1])

    beyond = copy.deepcopy(what)
    beyond['annotations'][0]['bbox'] = [0, 0, 40, 60]
    with pytest.raises(DataError, match='0.jpg has an EXIF orientation.*boxes that reach beyond'):
        check(write(beyond, 'beyond.json', images=0))
    unstated = copy.deepcopy(what)
    del unstated['images'][0]['width']
    with pytest.raises(DataError, match='0.jpg has an EXIF orientation.*states no width and height'):
        check(write(unstated, 'unstated.json', images=0))


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(filter_empty_gt=True, min_size=50),
            'filtered away: 0 without objects .*, 2 with a side of less than 50 pix',
        ),
        (dict(min_size=500), 'all 2 images are filtered away'),
    ],
)
def test_all_images_filtered_away(write, options, message):
    path = write(content())
    with pytest.raises(DataError, match=message):
        check(path, filter_cfg=options)
    assert check(path, filter_cfg=dict(filter_empty_gt=True, min_size=48)) == []
    assert check(path, filter_cfg=options, test_mode=True) == []


def test_boxes_without_area_are_counted(write):
    what = content()
    what['annotations'][0]['bbox'][2] = 0
    what['annotations'][1]['bbox'] = [64, 0, 5, 5]
    notes = check(write(what))
    assert [note.split(': ', 1)[1] for note in notes] == [
        '1 boxes are less than a pixel wide or high: left out in training, counted in evaluation',
        '1 boxes lie outside their image: left out in training, counted in evaluation',
    ]


# Which images are evaluated.


@pytest.mark.parametrize('kind', ['CocoMetric', 'FasterCocoMetric'])
@pytest.mark.parametrize('images', [(1, 2), (2,), (3, 1)])
def test_only_predicted_images_count(write, kind, images):
    path = write(content(images=4), images=4)
    assert evaluate(path, perfect(images=images), kind=kind)['coco/bbox_mAP'] == 1
    discs = {image: [found[0]] for image, found in perfect(images=images).items()}
    assert evaluate(path, discs, kind=kind)['coco/bbox_mAP'] == pytest.approx(1 / 3, abs=1e-3)


def test_an_image_predicted_twice_counts_once(write):
    path = write(content())
    with DefaultScope.overwrite_default_scope('mmdet'):
        metric = METRICS.build(dict(type='CocoMetric', ann_file=path))
    metric.dataset_meta = dict(classes=CLASSES)
    for image in (1, 2, 1):
        found = perfect()[image]
        instances = dict(
            labels=torch.tensor([label for label, _ in found]),
            bboxes=torch.tensor([box for _, box in found]).float(),
            scores=torch.ones(3),
        )
        metric.process({}, [dict(img_id=image, ori_shape=SIZE, pred_instances=instances)])
    assert metric.evaluate(3)['coco/bbox_mAP'] == 1


def test_the_evaluator_must_have_the_images(write):
    whole = content(images=4)
    path = write(whole, images=4)
    some = dict(whole, images=whole['images'][:2], annotations=whole['annotations'][:6])
    part = write(some, 'part.json', images=0)
    rest = write(dict(whole, images=whole['images'][2:], annotations=whole['annotations'][6:]), 'rest.json', images=0)
    renamed = copy.deepcopy(some)
    renamed['images'][1]['file_name'] = 'elsewhere.png'
    renamed = write(renamed, 'renamed.json', images=0)

    def compare(dataset, evaluator, **options):
        return check_coco_metric(dict(ann_file=evaluator), [build(dataset, lazy=True, **options)], 'here')

    assert compare(path, path) == compare(part, part) == []
    assert 'evaluated on 2 of its 4 images' in compare(part, path)[0]
    assert 'evaluated on 3 of its 4 images' in compare(path, path, indices=3)[0]
    with pytest.raises(DataError, match="2 of 2 images .* the first is image 1, '0.png', which it does not have"):
        compare(part, rest)
    with pytest.raises(DataError, match="1 of 2 images .* image 2, '1.png', which is 'elsewhere.png' there"):
        compare(part, renamed)
    with pytest.raises(DataError, match='2 of 4 images'):
        compare(path, part)
    assert compare(path, part, indices=2) == []
    joined = [build(part, lazy=True), build(rest, lazy=True)]
    assert check_coco_metric(dict(ann_file=path), joined, 'here') == []
    with pytest.raises(DataError, match='image id 2 is .*1.png.* in one data set and .*elsewhere.png.* in another'):
        check_coco_metric(dict(ann_file=path), [build(part, lazy=True), build(renamed, lazy=True)], 'here')


def test_the_metric_notices_other_images(write):
    """Before the first image is counted, also without the check of the tools."""
    path = write(content())
    with DefaultScope.overwrite_default_scope('mmdet'):
        metric = METRICS.build(dict(type='CocoMetric', ann_file=path))
    empty = dict(labels=torch.zeros(0), bboxes=torch.zeros(0, 4), scores=torch.zeros(0))
    for image, name in ((5, '0.png'), (1, '7.png')):
        sample = dict(img_id=image, img_path=f'/data/{name}', ori_shape=SIZE, pred_instances=empty)
        with pytest.raises(DataError, match=f'is not the file of these images: image {image} is /data/{name}'):
            metric.process({}, [sample])


@pytest.mark.parametrize('spoil', [without('annotations'), lambda what: what.update(annotations=[])])
def test_nothing_to_evaluate_against(write, spoil):
    what = content()
    spoil(what)
    path = write(what)
    datasets = [build(path, lazy=True, test_mode=True)]
    with pytest.raises(DataError, match='nothing can be evaluated against it'):
        check_coco_metric(dict(ann_file=path), datasets, 'here')
    assert check_coco_metric(dict(ann_file=path, format_only=True, outfile_prefix='x'), datasets, 'here') == []


def test_check_masks_says_what_it_mended(write):
    what = content()
    what['annotations'][0]['segmentation'] = SQUARE
    what['annotations'][1]['segmentation'] = [[str(value) for value in SQUARE]]
    file = read_coco(write(what))
    assert '2 masks mended' in check_masks(file)[0] and check_masks(file) == []
    assert [annotation['segmentation'] for annotation in file.annotations[:2]] == [[SQUARE]] * 2
