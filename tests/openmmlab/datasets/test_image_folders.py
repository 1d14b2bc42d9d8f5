"""Which images and label maps a segmentation data set finds, whichever way people name them."""

import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from test_label_maps import LOAD, config, truth

from internimage.openmmlab.datasets.checks import check_data
from internimage.openmmlab.datasets.checks.errors import DataError


def write(root, images, labels=(), listed=None):
    """Files `images` and `labels` of the same order, image k with a pixel of value 10 k in the corner."""
    for folder, names in (('images', images), ('labels', labels)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((20, 30, 3), number * 10, np.uint8) if folder == 'images' else truth()
            Image.fromarray(pixels).save(path)
    if listed is not None:
        (root / 'list.txt').write_bytes(listed)
    return root


def pairs(cfg, split='train'):
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    root = dataset.data_root
    return [
        tuple(dataset.get_data_info(i)[key].removeprefix(f'{root}/') for key in ('img_path', 'seg_map_path'))
        for i in range(len(dataset))
    ]


@pytest.mark.parametrize(
    'suffixes', [['.jpg', '.JPG', '.jpeg', '.tif', '.png'], ['.png'] * 3, ['.TIFF', '.bmp', '.webp']]
)
def test_every_suffix_that_the_reader_knows_is_found(suffixes, tmp_path):
    names = [f'town/{number}' for number in range(len(suffixes))]
    images = [f'{name}{suffix}' for name, suffix in zip(names, suffixes, strict=True)]
    cfg = config(write(tmp_path, images, [f'{name}.png' for name in names]))
    expected = [(f'images/{image}', f'labels/{name}.png') for image, name in zip(images, names, strict=True)]
    assert pairs(cfg) == sorted(expected)
    others = len(suffixes) - suffixes.count('.jpg')
    assert any(f'train data: {others} images with the suffix' in note for note in check_data(cfg, 'train'))
    np.testing.assert_array_equal([sample['img'][0, 0, 0] // 10 for sample in built(cfg)], range(len(suffixes)))


def built(cfg):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return DATASETS.build(cfg.train_dataloader.dataset)


def test_what_is_no_image_of_the_data_set_stays_out(tmp_path):
    """Label maps beside the images, pictures without a label map, another version of an image, hidden files."""
    images = ['0.jpg', '0.png', '1.jpg', '1.png', '.2.jpg', 'notes.png', '1_colour.png']
    write(tmp_path, images)
    for name in ('0.png', '1.png'):
        Image.fromarray(truth()).save(tmp_path / 'images' / name)
    prefix = dict(img_path='images', seg_map_path='images')
    cfg = config(tmp_path, train=dict(data_prefix=prefix))
    assert pairs(cfg) == [('images/0.jpg', 'images/0.png'), ('images/1.jpg', 'images/1.png')]
    assert check_data(cfg, 'train') == []


def test_label_maps_below_the_images(tmp_path):
    write(tmp_path, ['0.jpg', '1.JPG'])
    for name in ('0.png', '1.png'):
        (tmp_path / 'images/labels').mkdir(exist_ok=True)
        Image.fromarray(truth()).save(tmp_path / 'images/labels' / name)
    cfg = config(tmp_path, train=dict(data_prefix=dict(img_path='images', seg_map_path='images/labels')))
    assert [image for image, _ in pairs(cfg)] == ['images/0.jpg', 'images/1.JPG']


def test_a_long_suffix_names_its_images_alone(tmp_path):
    write(tmp_path, ['a_leftImg8bit.png', 'b_leftImg8bit.jpg', 'c.png'], ['a_gt.png', 'b_gt.png', 'c_gt.png'])
    cfg = config(tmp_path, train=dict(img_suffix='_leftImg8bit.png', seg_map_suffix='_gt.png'))
    assert pairs(cfg) == [
        ('images/a_leftImg8bit.png', 'labels/a_gt.png'),
        ('images/b_leftImg8bit.jpg', 'labels/b_gt.png'),
    ]


def test_two_images_of_one_name(tmp_path):
    cfg = config(write(tmp_path, ['0.png', '0.tif'], ['0.png']))
    with pytest.raises(DataError, match='0.png and 0.tif: which one is the image?'):
        check_data(cfg, 'train')


@pytest.mark.parametrize(
    'files, found', [(['a.txt', 'b.txt', 'c.npy'], 'there are .txt (2), .npy (1)'), ([], 'it is empty')]
)
def test_a_folder_without_images(files, found, tmp_path):
    write(tmp_path, [])
    for file in files:
        (tmp_path / 'images' / file).touch()
    with pytest.raises(DataError) as error:
        check_data(config(tmp_path), 'train')
    assert f'no image in {tmp_path}/images, where the data set looks for *.jpg: {found}' in str(error.value)


@pytest.mark.parametrize(
    'listed',
    [
        b'a\nb\n', b'a\r\nb\r\n', b'a\nb\n\n\n', b'\xef\xbb\xbfa\nb\n', b'a.jpg\nb.JPEG\n', b'a \nb.jpg\n'
    ],
)  # fmt: skip
def test_lists(listed, tmp_path):
    cfg = config(
        write(tmp_path, ['a.jpg', 'b.JPEG', 'c.jpg'], ['a.png', 'b.png', 'c.png'], listed),
        train=dict(ann_file='list.txt'),
    )
    if listed.endswith(b'b.jpg\n'):
        with pytest.raises(DataError, match='1 of 2 images do not exist, such as .*b.jpg.jpg'):
            check_data(cfg, 'train')
        return
    assert pairs(cfg) == [('images/a.jpg', 'labels/a.png'), ('images/b.JPEG', 'labels/b.png')]
    assert any('found under another suffix or spelling' in note for note in check_data(cfg, 'train'))


def test_backslashes_in_lists(tmp_path):
    write(tmp_path, ['north/a.jpg', 'south/b.jpg'], ['north/a.png', 'south/b.png'], b'north\\a\nsouth/b\n')
    cfg = config(tmp_path, train=dict(ann_file='list.txt'))
    assert pairs(cfg) == [('images/north/a.jpg', 'labels/north/a.png'), ('images/south/b.jpg', 'labels/south/b.png')]
    check_data(cfg, 'train')


def test_label_maps_of_another_suffix(tmp_path):
    cfg = config(write(tmp_path, ['0.jpg', '1.jpg', '2.jpg'], ['0.png', '1.PNG', '2.tif']))
    assert [label for _, label in pairs(cfg)] == ['labels/0.png', 'labels/1.PNG', 'labels/2.tif']
    assert 'train data: 2 label maps under another suffix than .png' in check_data(cfg, 'train')


def test_missing_label_maps(tmp_path):
    write(tmp_path, ['0.jpg', '1.jpg', '2.jpg'], ['0.png', '1_mask.png'])
    cfg = config(tmp_path)
    with pytest.raises(
        DataError,
        match="2 of 3 label maps do not exist, such as .*1.png; there is 1_mask.png: seg_map_suffix='_mask.png'",
    ):
        check_data(cfg, 'train')
    with pytest.raises(DataError, match='labels/2.png: No such file or directory'):
        built(cfg)[2]
    cfg.train_dataloader.dataset.pipeline = LOAD[:1]  # images alone
    assert check_data(cfg, 'train') == []


def test_a_part_of_the_data_set(tmp_path):
    cfg = config(write(tmp_path, ['0.jpg', '1.JPG', '2.jpg'], ['0.png', '1.png']), train=dict(indices=2))
    assert [image for image, _ in pairs(cfg)] == ['images/0.jpg', 'images/1.JPG']
    check_data(cfg, 'train')
