"""`--tta` of every config: the views that it makes, and what comes of them."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

import internimage.openmmlab  # noqa: F401  (registers)
from internimage.openmmlab.cfg_options import ConfigError
from internimage.openmmlab.configuration import leaf_datasets
from internimage.openmmlab.tta import SCALES, use_tta

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / 'configs').glob('[a-z]*/*.py'))
SIZE = (96, 128)  # height, width
KINDS = [
    'demo/upernet_internimage_small_camvid',
    'demo/mask2former_internimage_small_camvid',
    'cityscapes/segformer_internimage_l_512x1024_160k_mapillary2cityscapes',
    'demo/faster_rcnn_internimage_small_mdpool_bccd',
    'demo/rfcn_internimage_small_bccd',
    'demo/dino_internimage_small_coco_mini',
]


def views(cfg: Config) -> list:
    """The inputs and data samples that the test pipeline makes of a picture, without annotations."""
    load, tta = next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline
    tta = dict(tta, transforms=[choice for choice in tta.transforms if 'Annotations' not in choice[0].type])
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    sample = dict(img=picture, img_path='x.png', img_id=0, ori_shape=SIZE, img_shape=SIZE, height=96, width=128)
    sample.update(seg_map_path=None, reduce_zero_label=False, seg_fields=[])
    return Compose([tta])(sample)


def test_every_config():
    """All in one test: reading 82 configs takes the time."""
    with_masks = 0
    for path in CONFIGS:
        cfg = Config.fromfile(path)
        segments = cfg.default_scope == 'mmseg'
        before = next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            try:
                use_tta(cfg)
            except ConfigError as error:
                assert 'predicts masks of instances' in str(error) and cfg.model.roi_head.mask_head, path
                with_masks += 1
                continue
            assert cfg.model.type.split('.')[-1] == ('SegTTAModel' if segments else 'DetTTAModel')
            pipeline = next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline
            Compose(pipeline)
            choices = pipeline[1].transforms
            sizes = 5 if path.stem.endswith('_ms') else 6 if segments else 1
            assert [len(choice) for choice in choices if len(choice) > 1] == ([sizes, 2] if segments else [2]), path
            assert {step[0].type for step in choices} >= {step.type for step in before[1:]}, path
    assert len(CONFIGS) > 80 and 0 < with_masks < 40


@pytest.mark.parametrize('name', KINDS)
def test_views(name):
    """Every view has its mirror image, at every size, and says what it needs to be turned back."""
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    use_tta(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        found = views(cfg)
    images = found['inputs']
    flips = [bool(sample.flip) for sample in found['data_samples']]
    assert all(sample.ori_shape == SIZE and 'flip_direction' in sample for sample in found['data_samples'])
    count = len(SCALES) if cfg.default_scope == 'mmseg' else 1
    assert sorted(flips) == [False] * count + [True] * count
    plain = [image for image, flip in zip(images, flips, strict=True) if not flip]
    mirrored = [image.flip(-1) for image, flip in zip(images, flips, strict=True) if flip]
    for image in plain:
        assert any(
            image.shape == other.shape and (image.float() - other.float()).abs().max() <= 2 for other in mirrored
        )
    if count > 1:
        heights = sorted({image.shape[-2] for image in images})
        assert len(heights) == count and 3 <= heights[-1] / heights[0] <= 4
