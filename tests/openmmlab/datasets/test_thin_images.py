"""Images of a few pixels on one side are resized to at least one pixel, with what is annotated on them."""

import mmcv
import numpy as np
import pytest
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.registry import TRANSFORMS, DefaultScope
from PIL import Image
from test_label_maps import build, config

from internimage.openmmlab.datasets.checks import check_data

THIN = [(1, 3000), (3000, 1), (3, 2000), (2, 4000), (1, 1)]  # height, width


def apply(scope, steps, results):
    with DefaultScope.overwrite_default_scope(scope):
        for step in steps:
            results = TRANSFORMS.build(step)(results)
    return results


@pytest.mark.parametrize('size', THIN)
@pytest.mark.parametrize('masks', ['bitmap', 'polygon', 'none'])
@pytest.mark.parametrize(
    'resize',
    [
        dict(type='Resize', scale=(1333, 800), keep_ratio=True),
        dict(type='FixScaleResize', scale=(1333, 800), keep_ratio=True),
        dict(type='RandomChoiceResize', scales=[(320, 400)], keep_ratio=True),
        dict(type='RandomResize', scale=(640, 400), ratio_range=(0.1, 0.2), keep_ratio=True),
        dict(type='Resize', scale_factor=0.2),
    ],
    ids=lambda step: f'{step["type"]} {"factor" if "scale_factor" in step else ""}',
)
def test_detection(resize, masks, size, tmp_path):
    height, width = size
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(tmp_path / 'image.png')
    outline = np.array([0, 0, width, 0, width, height, 0, height], float)
    mask = dict(
        bitmap=BitmapMasks(np.ones((1, height, width), np.uint8), height, width), none=BitmapMasks([], height, width)
    )
    mask['polygon'] = PolygonMasks([[outline]], height, width)
    boxes = np.array([[0, 0, width, height]], np.float32)
    results = dict(img_path=str(tmp_path / 'image.png'), img_id=0, gt_masks=mask[masks], gt_bboxes=boxes)
    found = apply('mmdet', [dict(type='LoadImageFromFile'), resize, dict(type='RandomFlip', prob=1.0)], results)
    new_height, new_width = found['img'].shape[:2]
    assert min(new_height, new_width) >= 1 and found['img_shape'] == (new_height, new_width)
    if resize['type'] != 'FixScaleResize':  # which rounds images down and masks to the nearest
        assert (found['gt_masks'].height, found['gt_masks'].width) == (new_height, new_width)
        assert found['gt_masks'].to_ndarray().shape[1:] == (new_height, new_width)
    np.testing.assert_allclose(found['gt_bboxes'][0], [0, 0, new_width, new_height], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize('size', THIN)
def test_segmentation(size, tmp_path):
    height, width = size
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    Image.new('RGB', (width, height)).save(tmp_path / 'images/0.png')
    Image.new('L', (width, height), 1).save(tmp_path / 'labels/0.png')
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    resize = dict(type='Resize', scale=(640, 320), keep_ratio=True)
    train = [*load, resize, dict(type='RandomCrop', crop_size=(64, 96), cat_max_ratio=0.75), dict(type='PackSegInputs')]
    test = [load[0], resize, dict(type='ResizeToMultiple', size_divisor=32), load[1], dict(type='PackSegInputs')]
    for pipeline in (train, test):
        cfg = config(tmp_path, pipeline=pipeline)
        check_data(cfg, 'train')
        sample = build(cfg)[0]
        assert min(sample['inputs'].shape) >= 1
        labels = sample['data_samples'].gt_sem_seg.data
        assert labels.shape[1:] == (sample['inputs'].shape[1:] if pipeline is train else (height, width))
        assert (labels == 1).all()


@pytest.mark.parametrize('size', [(640, 480), (481, 333), (7, 1000)])
@pytest.mark.parametrize('scale', [(1333, 800), 0.37, (64, 32), 2])
def test_other_images_have_the_size_that_mmcv_gives(size, scale):
    factor = scale if not isinstance(scale, tuple) else min(max(scale) / max(size), min(scale) / min(size))
    expected = tuple(int(side * factor + 0.5) for side in size)
    assert mmcv.rescale_size(size, scale) == tuple(max(side, 1) for side in expected)
    assert min(expected) >= 1 or size == (7, 1000)
