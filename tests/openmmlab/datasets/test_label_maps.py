"""Label maps as people make them: read as what they say, or refused in one line, in the check and in the pipeline."""

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image
from torch.utils.data import DataLoader

from internimage.openmmlab.datasets.checks import check_data
from internimage.openmmlab.datasets.checks.errors import DataError
from internimage.openmmlab.datasets.transforms import class_indices

HEIGHT, WIDTH = 20, 30  # of the images
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


def truth(classes=3) -> np.ndarray:
    """(H, W) class indices; every class is there, and no symmetry."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for index in range(1, classes):
        labels[index :: classes + 1, 2 + index :] = index
    return labels


def config(root, classes=3, train=(), model=(), evaluator=(), pipeline=LOAD, padding=255):
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else classes
    dataset = {
        'type': 'BaseSegDataset',
        'data_root': str(root),
        'data_prefix': dict(img_path='images', seg_map_path='labels'),
        'metainfo': dict(classes=names),
        'pipeline': pipeline,
        'serialize_data': False,  # a second of garbage collection
        **dict(train),
    }
    return Config(
        dict(
            default_scope='mmseg',
            model=dict(
                decode_head={'num_classes': len(names), **dict(model)}, data_preprocessor=dict(seg_pad_val=padding)
            ),
            train_dataloader=dict(dataset=dataset),
            test_dataloader=dict(dataset=dict(dataset, test_mode=True)),
            test_evaluator=dict(type='IoUMetric', **dict(evaluator)),
        ),
    )


def write(root, labels=(), images=3, suffix='.jpg', label_suffix='.png'):
    """`images` images, whose label maps are right but for those of `labels` {number: array or PIL image}."""
    for folder in ('images', 'labels'):
        (root / folder).mkdir(exist_ok=True, parents=True)
    rng = np.random.default_rng(0)
    for number in range(images):
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(root / f'images/{number:03}{suffix}')
        label_map = dict(labels).get(number, truth())
        if isinstance(label_map, np.ndarray):
            label_map = Image.fromarray(label_map)
        label_map.save(root / f'labels/{number:03}{label_suffix}')
    return root


def build(cfg, split='train'):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return DATASETS.build(cfg[f'{split}_dataloader'].dataset)


def with_alpha(label_map, alpha):
    return Image.merge('LA', (Image.fromarray(label_map), Image.fromarray(alpha)))


def palette(label_map):
    image = Image.fromarray(label_map, 'P')
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0])
    return image


OPAQUE = np.full((HEIGHT, WIDTH), 255, np.uint8)
_, ONES, TWOS = np.bincount(truth().ravel())
COLOURS = np.array([(0, 0, 0), (60, 120, 240), (230, 60, 60)], np.uint8)
RIGHT = {
    'gray + alpha': with_alpha(truth(), OPAQUE),
    'RGB of equal channels': np.stack([truth()] * 3, -1),
    'RGBA of equal channels': np.dstack([truth()] * 3 + [OPAQUE]),
    'palette': palette(truth()),
    '16 bit': truth().astype(np.uint16),
    'floats that are whole numbers': truth().astype(np.float32),
    '32 bit': truth().astype(np.int32),
}
WRONG = {
    '16 bit beyond': (
        np.array([0, 256, 257], np.uint16)[truth()],
        f'the values 256 ({ONES} pixels), 257 ({TWOS} pixels)',
    ),
    'beyond': (truth() + 1, f'the value 3 ({TWOS} pixels), but its classes are 0 to 2, and ignore_index is 255'),
    'scaled': (truth() * 120, f'the values 120 ({ONES} pixels), 240 ({TWOS} pixels)'),
    'RGB': (COLOURS[truth()], '3 colours, such as (0, 0, 0), (60, 120, 240), (230, 60, 60)'),
    'RGBA': (np.dstack([COLOURS[truth()], OPAQUE]), '3 colours'),
    'alpha': (with_alpha(truth(), truth() * 100), 'alpha channel'),
    'half the size': (truth()[::2, ::2], '15 x 10 pixels and its image'),
    'turned': (truth().T, '20 x 30 pixels and its image'),
    'larger': (np.pad(truth(), 1), '32 x 22 pixels and its image'),
    'fractions': (truth() / np.float32(2), 'fractions, such as 0.5'),
    'NaN': (np.where(truth() == 2, np.nan, truth()).astype(np.float32), 'fractions, such as nan'),
    'negative': (truth().astype(np.int32) - 1, 'values from -1 to 1'),
}


def suffix_of(label_map):
    kind = label_map.dtype if isinstance(label_map, np.ndarray) else None
    return '.tif' if kind in (np.float32, np.int32) else '.png'


@pytest.mark.parametrize('kind', RIGHT)
def test_what_is_unambiguous_is_read_as_what_it_says(kind, tmp_path):
    suffix = suffix_of(RIGHT[kind])
    cfg = config(write(tmp_path, {1: RIGHT[kind]}, label_suffix=suffix), train=dict(seg_map_suffix=suffix))
    notes = check_data(cfg, 'train', 'test')
    mended = [note for note in notes if 'label map' in note]
    assert (f'train data: 1 of 3 images are with a label map of {kind}, read as indices' in mended) == (
        ' ' in kind and 'bit' not in kind
    )
    for sample in build(cfg):
        np.testing.assert_array_equal(sample['gt_seg_map'], truth())
        assert sample['gt_seg_map'].dtype == np.uint8


@pytest.mark.parametrize('kind', WRONG)
@pytest.mark.parametrize('split', ['train', 'test'])
def test_what_is_wrong_is_an_error_before_the_run_and_in_the_pipeline(kind, split, tmp_path):
    label_map, message = WRONG[kind]
    suffix = suffix_of(label_map)
    cfg = config(write(tmp_path, {1: label_map}, label_suffix=suffix), train=dict(seg_map_suffix=suffix))
    file = str(tmp_path / 'labels' / f'001{suffix}')
    dataset = build(cfg, split)
    for read in (lambda: check_data(cfg, split), lambda: dataset[1], lambda: check_data(cfg, split, mode='full')):
        with pytest.raises(DataError) as error:
            read()
        assert file in str(error.value) and message in str(error.value) and '\n' not in str(error.value)
    assert dataset[2]['gt_seg_map'].shape == (HEIGHT, WIDTH)
    check_data(cfg, split, mode='off')


def test_jpeg_label_maps(tmp_path):
    cfg = config(write(tmp_path, label_suffix='.jpeg'), train=dict(seg_map_suffix='.jpeg'))
    with pytest.raises(DataError, match='000.jpeg: a label map as JPEG has other values at every edge'):
        check_data(cfg, 'train')


def test_broken_label_maps(tmp_path):
    cfg = config(write(tmp_path))
    for content in (b'', b'no image', (tmp_path / 'labels/000.png').read_bytes()[:-30]):
        (tmp_path / 'labels/002.png').write_bytes(content)
        for read in (lambda: check_data(cfg, 'train'), lambda: build(cfg)[2]):
            with pytest.raises(DataError, match='002.png: a broken label map, or none'):
                read()


@pytest.mark.parametrize('classes', [256, 300])
def test_16_bits_are_kept_for_more_than_255_classes(classes, tmp_path):
    label_map = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % classes
    label_map[3, 4] = 65535
    ignored = dict(ignore_index=65535)
    write(tmp_path, {i: label_map.astype(np.uint16) for i in range(3)})
    cfg = config(tmp_path, classes, model=ignored, evaluator=ignored, padding=65535)
    assert check_data(cfg, 'train', 'test') == []
    for split in ('train', 'test'):
        np.testing.assert_array_equal(build(cfg, split)[0]['gt_seg_map'], label_map)
    with pytest.raises(DataError, match='seg_pad_val=255 is a class'):
        check_data(config(tmp_path, classes, model=ignored), 'train')
    with pytest.raises(DataError, match='decode_head ignores index 255, which of .* classes is one'):
        check_data(config(tmp_path, classes, evaluator=ignored), 'train')
    with pytest.raises(DataError, match='test_evaluator ignores index 255'):
        check_data(config(tmp_path, classes, model=ignored), 'test')


def test_16_bits_with_a_transform_of_each_kind(tmp_path):
    label_map = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    write(tmp_path, {i: label_map for i in range(3)})
    pipeline = [
        *LOAD,
        dict(type='RandomResize', scale=(60, 40), ratio_range=(1, 1), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(16, 18), cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=1.0),
        dict(type='PhotoMetricDistortion'),
        dict(type='Pad', size=(24, 22), pad_val=dict(img=0, seg=65535)),
        dict(type='PackSegInputs'),
    ]
    cfg = config(tmp_path, 600, model=dict(ignore_index=65535), pipeline=pipeline, padding=65535)
    check_data(cfg, 'train')
    labels = build(cfg)[0]['data_samples'].gt_sem_seg.data[0].numpy()
    assert labels.shape == (22, 24)
    rows, columns = np.divmod(labels[:16, :18], WIDTH)
    np.testing.assert_array_equal(rows, rows[:, :1].repeat(18, 1))
    assert set(np.diff(columns[0])) == {0, -1} and set(np.diff(rows[:, 0])) == {0, 1}
    assert (labels[16:] == 65535).all()


@pytest.mark.parametrize('foreground', [255])
@pytest.mark.parametrize('classes', [2, 3])
def test_0_and_255(foreground, classes, tmp_path):
    label_map = (truth(2) * foreground).astype(np.uint8)
    cfg = config(write(tmp_path, {i: label_map for i in range(3)}), classes)
    for split in ('train', 'test'):
        with pytest.raises(DataError, match='hold the values 0, 255 alone.*binary segmentation has two classes'):
            check_data(cfg, split)


def test_a_class_that_the_sample_misses_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr('internimage.openmmlab.datasets.checks.label_maps.SAMPLE', 2)
    rare = {i: truth(2) * 255 for i in (0, 1, 2, 3, 5)}
    cfg = config(write(tmp_path, rare | {4: truth(2)}, images=6), 2)
    check_data(cfg, 'train')
    Image.fromarray(rare[0]).save(tmp_path / 'labels/004.png')
    with pytest.raises(DataError, match='hold the values 0, 255 alone'):
        check_data(cfg, 'train')


def test_only_a_sample_is_read_unless_full(tmp_path, monkeypatch):
    monkeypatch.setattr('internimage.openmmlab.datasets.checks.label_maps.SAMPLE', 3)
    cfg = config(write(tmp_path, {1: truth() + 5}, images=5))
    check_data(cfg, 'train')
    with pytest.raises(DataError, match='001.png'):
        check_data(cfg, 'train', mode='full')
    with pytest.raises(DataError, match='001.png'):  # in a worker process too, in one line
        list(DataLoader(build(cfg), num_workers=1, batch_size=1, collate_fn=list))
    try:
        list(DataLoader(build(cfg), num_workers=1, batch_size=1, collate_fn=list))
    except DataError as error:
        assert str(error).startswith(str(tmp_path / 'labels/001.png')) and 'Traceback' not in str(error)


def test_one_bit_per_pixel(tmp_path):
    write(tmp_path, {i: Image.fromarray(truth(2).astype(bool)) for i in range(3)})
    assert check_data(config(tmp_path, 2), 'train') == []
    np.testing.assert_array_equal(build(config(tmp_path, 2))[0]['gt_seg_map'], truth(2))


@pytest.mark.parametrize(
    'classes, head', [(('thing',), dict(num_classes=1)), (2, dict(num_classes=1)), (('thing',), dict(num_classes=2))]
)
def test_a_single_class(classes, head, tmp_path):
    write(tmp_path, {i: truth(2) for i in range(3)})
    with pytest.raises(DataError, match='binary segmentation has two classes.*out_channels=1'):
        check_data(config(tmp_path, classes, model=head), 'train')


def test_a_single_class_in_the_pipeline(tmp_path):
    write(tmp_path, {i: truth(2) for i in range(3)})
    with pytest.raises(DataError, match='value 1 .* pixels.*binary segmentation has two classes'):
        build(config(tmp_path, 1))[0]


def test_heads_and_data_of_another_number_of_classes(tmp_path):
    with pytest.raises(DataError, match='BaseSegDataset has 3 classes, but decode_head.num_classes=5'):
        check_data(config(write(tmp_path), model=dict(num_classes=5)), 'train')


def test_what_heads_and_metric_ignore_is_not_beyond_the_classes(tmp_path):
    """A void index behind the classes, as CamVid has; 255 is then a wrong value."""
    void = dict(ignore_index=2)
    write(tmp_path)
    cfg = config(tmp_path, 2, model=void, evaluator=void)
    assert check_data(cfg, 'train', 'test') == []
    for split in ('train', 'test'):
        np.testing.assert_array_equal(build(cfg, split)[0]['gt_seg_map'], truth())
    with pytest.raises(DataError, match='value 2'):
        check_data(config(tmp_path, 2, model=void), 'test')  # the metric does not know of it
    with pytest.raises(DataError, match='value 2'):
        check_data(config(tmp_path, 2, evaluator=void), 'train')
    with pytest.raises(DataError, match='seg_pad_val=1 is a class'):
        check_data(config(tmp_path, 2, model=void, padding=1), 'train')


def mmseg_rule(values, reduce_zero_label, label_map):
    values = values.copy()
    if reduce_zero_label:
        values[values == 0] = 255
        values = values - 1
        values[values == 254] = 255
    found = values.copy()
    for old, new in (label_map or {}).items():
        found[values == old] = new
    return found


@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('every', [None, 3])
@pytest.mark.parametrize('classes', [2, 19, 150, 254])
def test_the_numbers_of_right_label_maps_are_those_of_mmseg(classes, every, reduce_zero_label):
    label_map = every and {i: 255 if i % every else i // every for i in range(classes)}
    chosen = len([i for i in range(classes) if not (every and i % every)])
    values = np.r_[np.arange(classes) + reduce_zero_label, 255, 0].astype(np.uint8)
    labels = np.random.default_rng(0).choice(values, (13, 17))
    found = class_indices(labels, '', chosen, 255, reduce_zero_label, label_map)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, mmseg_rule(labels, reduce_zero_label, label_map))


@pytest.mark.parametrize('reduce_zero_label', [False, True])
def test_values_beyond_are_named_as_the_file_has_them(reduce_zero_label, tmp_path):
    cfg = config(write(tmp_path, {1: truth() + 2}), train=dict(reduce_zero_label=reduce_zero_label))
    first = int(reduce_zero_label)
    with pytest.raises(DataError, match=f'the value.* 4 .*classes are {first} to {2 + first},'):
        check_data(cfg, 'train')


def test_a_subset_of_the_classes(tmp_path):
    write(tmp_path, {0: truth(19), 1: truth(19) + 3})
    cfg = config(
        tmp_path, ('sky', 'road'), train=dict(type='CityscapesDataset', seg_map_suffix='.png', img_suffix='.jpg')
    )
    with pytest.raises(DataError, match='001.png.*value.* 19 .*classes are 0 to 18'):
        check_data(cfg, 'train')
    np.testing.assert_array_equal(
        build(cfg)[0]['gt_seg_map'], np.where(truth(19) == 0, 1, np.where(truth(19) == 10, 0, 255))
    )


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('labelled', ['upright', 'stored'])
def test_photos_with_an_exif_rotation(orientation, labelled, tmp_path):
    """The label map shows what the upright photo shows, whether it was drawn on that or on the stored pixels."""
    write(tmp_path)
    stored = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    stored[:8, :16] = 220  # 8-pixel blocks: JPEG keeps them
    image = Image.fromarray(stored)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / 'images/001.jpg', exif=exif, quality=95)
    upright = cv2.imread(str(tmp_path / 'images/001.jpg'))
    drawn_on = upright if labelled == 'upright' else stored
    label_map = (drawn_on[..., 0] > 128).astype(np.uint8) * 2
    label_map[0, 0] = 1
    Image.fromarray(label_map).save(tmp_path / 'labels/001.png')
    cfg = config(tmp_path)
    notes = check_data(cfg, 'train')
    assert any('EXIF' in note for note in notes) == (
        orientation in (2, 3, 4) or (orientation > 4 and labelled == 'stored')
    )
    if labelled == 'stored' and orientation in (2, 3, 4):
        return  # nobody can know: said in the note
    sample = build(cfg)[1]
    np.testing.assert_array_equal(sample['gt_seg_map'] > 1, (sample['img'][..., 0] > 128) & (sample['gt_seg_map'] != 1))
    assert sample['img'].shape[:2] == upright.shape[:2]


def test_label_maps_read_after_a_resizing_belong_to_the_original(tmp_path):
    pipeline = [LOAD[0], dict(type='Resize', scale=(45, 31), keep_ratio=False), LOAD[1]]
    cfg = config(write(tmp_path, {1: truth()[:, :-1]}), pipeline=pipeline)
    np.testing.assert_array_equal(build(cfg, 'test')[0]['gt_seg_map'], truth())
    with pytest.raises(DataError, match='29 x 20 pixels and its image .*001.jpg 30 x 20'):
        build(cfg, 'test')[1]


def test_a_label_map_of_one_row_stays_one(tmp_path):
    Image.new('RGB', (5, 1)).save(tmp_path / 'image.png')
    Image.new('L', (5, 1), 1).save(tmp_path / 'label.png')
    results = dict(seg_map_path=str(tmp_path / 'label.png'), reduce_zero_label=False, seg_fields=[])
    assert LoadAnnotations()(results)['gt_seg_map'].shape == (1, 5)
