"""Every official segmentation config trains a step and is scored, with a tiny backbone and thin heads.

Its data set is a tiny one of its format, which lies where the config looks for it.
"""

import copy
import re
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner

from internimage.openmmlab.configuration import leaf_datasets
from internimage.openmmlab.tta import use_tta

ROOT = Path(__file__).parents[2]
FOLDERS = ('ade20k', 'cityscapes', 'coco_stuff10k', 'coco_stuff164k', 'mapillary', 'nyu_depth_v2', 'pascal_context')
# With a tiny backbone these differ from the others in nothing, or, single-scale from multi-scale, test nothing more.
# One of each head; tests/configs/test_tta.py builds the augmentation of all.
WITH_TTA = (
    'upernet_internimage_t_512_160k_ade20k',
    'segformer_internimage_l_512x1024_160k_mapillary2cityscapes',
    'mask2former_internimage_h_480_40k_nyu',
)
DUPLICATE = re.compile(r'internimage_(s|b|xl|g)_|_ss$|upernet_internimage_l_(640|512x1024_160k)|h_1024x1024')
CONFIGS = [
    pytest.param(
        path, marks=[pytest.mark.slow] if DUPLICATE.search(path.stem) else [], id=f'{path.parent.name}/{path.stem}'
    )
    for folder in FOLDERS
    for path in sorted((ROOT / 'configs' / folder).glob('*.py'))
]
SIZE = (48, 64)  # of the images, (height, width)
IGNORED = 255

# Labels in Mapillary's files, for each class of Cityscapes those that are it: the official numbers.
MAPILLARY = [
    *([13, 24, 41], [2, 15], [17], [6], [3], [45, 47], [48], [50], [30], [29]),
    *([27], [19], [20, 21, 22], [55], [61], [54], [58], [57], [52]),
]
MAPILLARY_OTHERS = sorted(set(range(66)) - set(sum(MAPILLARY, [])))


def truth(num_classes, rng):
    """A label map in blocks of 8 x 8 pixels: indices 0 to `num_classes` - 1, and pixels that are ignored."""
    height, width = (side // 8 for side in SIZE)
    labels = rng.integers(0, num_classes, (height, width))
    labels[0, 0], labels[0, 1], labels[0, 2] = 0, num_classes - 1, IGNORED
    return labels.repeat(8, 0).repeat(8, 1).astype(np.uint8)


def zero_is_ignored(labels, rng):
    return labels + 1  # in uint8: 255 becomes 0


def mapillary(labels, rng):
    table = {label: choices for label, choices in enumerate(MAPILLARY)} | {IGNORED: MAPILLARY_OTHERS}
    return np.vectorize(lambda label: rng.choice(table[label]))(labels).astype(np.uint8)


def as_they_are(labels, rng):
    return labels


CITYSCAPES = ('_leftImg8bit.png', '_gtFine_labelTrainIds.png')
STUFF = ('.jpg', '_labelTrainIds.png')
# {data root: (classes, encoding, (suffixes of image and labels), [(folder of images, folder of labels, names, list)])}
FORMATS = {
    'data/ADEChallengeData2016': (
        *(150, zero_is_ignored, ('.jpg', '.png')),
        [
            ('images/training', 'annotations/training', ['ADE_train_00000001', 'ADE_train_00000002'], None),
            ('images/validation', 'annotations/validation', ['ADE_val_00000001'], None),
        ],
    ),
    'data/cityscapes': (
        *(19, as_they_are, CITYSCAPES),
        [
            ('leftImg8bit/train', 'gtFine/train', ['aachen/aachen_000000_000019', 'ulm/ulm_000001_000019'], None),
            ('leftImg8bit/train_extra', 'refinement_final/train_extra', ['augsburg/augsburg_000000_000000'], None),
            ('leftImg8bit/val', 'gtFine/val', ['munster/munster_000000_000019'], None),
        ],
    ),
    'data/Mapillary': (
        *(19, mapillary, ('.jpg', '.png')),
        [
            ('training/images', 'training/labels', ['-0DWPGUF8vbBZ1'], None),
            ('validation/images', 'validation/labels', ['-1KAD6Z3d'], None),
        ],
    ),
    'data/coco_stuff164k': (
        *(171, as_they_are, STUFF),
        [
            ('images/train2017', 'annotations/train2017', ['000000000009', '000000000025'], None),
            ('images/val2017', 'annotations/val2017', ['000000000139'], None),
        ],
    ),
    'data/coco_stuff10k': (
        *(171, zero_is_ignored, STUFF),
        [
            ('images/train2014', 'annotations/train2014', ['COCO_train2014_000000000077'], None),
            ('images/test2014', 'annotations/test2014', ['COCO_train2014_000000000086'], None),
        ],
    ),
    'data/nyu_depth_v2': (
        *(40, zero_is_ignored, ('.png', '.png')),
        [('image', 'label40', ['0002', '0003'], 'train.txt'), ('image', 'label40', ['0000'], 'test.txt')],
    ),
    'data/VOCdevkit/VOC2010': (
        *(59, zero_is_ignored, ('.jpg', '.png')),
        [
            ('JPEGImages', 'SegmentationClassContext', ['2008_000002'], 'ImageSets/SegmentationContext/train.txt'),
            ('JPEGImages', 'SegmentationClassContext', ['2008_000003'], 'ImageSets/SegmentationContext/val.txt'),
        ],
    ),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with all the data sets, and the true labels {path of a label file, from the folder: index map}."""
    folder, labels, rng = tmp_path_factory.mktemp('formats'), {}, np.random.default_rng(0)
    for root, (num_classes, encode, (image_suffix, label_suffix), splits) in FORMATS.items():
        for images, annotations, names, listed in splits:
            for name in names:
                index = truth(num_classes, rng)
                label_file = f'{root}/{annotations}/{name}{label_suffix}'
                image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
                mmcv.imwrite(image, str(folder / root / images / f'{name}{image_suffix}'))
                mmcv.imwrite(encode(index, rng), str(folder / label_file))
                labels[label_file] = index
            if listed:
                path = folder / root / listed
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text('\n'.join(names) + '\n')
    return folder, labels


def shrink(cfg):
    """A tiny backbone, thin heads, images as they are, one training step: all else stays as the config has it."""
    channels = [16, 32, 64, 128]
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    backbone.update(channels=16, depths=[1, 1, 2, 1], groups=[1, 2, 4, 8], init_cfg=None)
    if backbone.get('level2_post_norm'):
        backbone.level2_post_norm_block_ids = [1]
    head.in_channels = channels
    if 'auxiliary_head' in cfg.model:
        cfg.model.auxiliary_head.update(in_channels=channels[2], channels=8)
    if head.type == 'OfficialMask2FormerHead':
        width = dict(embed_dims=32)
        head.update(feat_channels=32, out_channels=32, num_queries=6)
        encoder, decoder = head.pixel_decoder.encoder, head.transformer_decoder
        encoder.num_layers, decoder.num_layers = 1, 2
        encoder.layer_cfg.self_attn_cfg.update(width, num_heads=4)
        for attention in (decoder.layer_cfg.self_attn_cfg, decoder.layer_cfg.cross_attn_cfg):
            attention.update(width, num_heads=4)
        for layer in (encoder.layer_cfg, decoder.layer_cfg):
            layer.ffn_cfg.update(width, feedforward_channels=32)
        head.pixel_decoder.positional_encoding.num_feats = head.positional_encoding.num_feats = 16
        head.train_cfg.num_points = 64
    else:
        head.channels = 16
    crop = (32, 48)  # of 1 x 2 positions in the last stage: GroupNorm wants more than one
    cfg.model.data_preprocessor.size = crop
    if cfg.model.test_cfg.mode == 'slide':
        cfg.model.test_cfg.update(crop_size=crop, stride=(16, 32))
    cfg.train_dataloader.batch_size = 2  # batch norm of one image, in UPerNet's pool of 1 x 1, needs other GPUs
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        for dataset in leaf_datasets(loader.dataset):
            for transform in dataset.pipeline:
                if 'scale' in transform:
                    transform.scale = SIZE[::-1]
                if 'crop_size' in transform:
                    transform.crop_size = crop
    cfg.train_cfg.update(max_iters=1, val_interval=1)


def labels_of(dataset):
    """{label file: index map} as a data set of a config reads it."""
    loading = [transform for transform in dataset.pipeline if 'Load' in transform.type]
    with DefaultScope.overwrite_default_scope('mmseg'):
        samples = DATASETS.build(dict(dataset, pipeline=loading))
    return {sample['seg_map_path']: sample['gt_seg_map'] for sample in samples}


@pytest.mark.parametrize('path', CONFIGS)
def test_trains_and_evaluates(path, data, tmp_path, monkeypatch):
    folder, labels = data
    monkeypatch.chdir(folder)  # the configs say data/...
    cfg = Config.fromfile(path)

    for dataset in (*leaf_datasets(cfg.train_dataloader.dataset), *leaf_datasets(cfg.val_dataloader.dataset)):
        found = labels_of(dataset)
        assert found
        for file, index in found.items():
            np.testing.assert_array_equal(index, labels[file], err_msg=file)

    shrink(cfg)
    cfg.update(work_dir=str(tmp_path), load_from=None, randomness=dict(seed=0))
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    runner.model = revert_sync_batchnorm(runner.model)
    before = {name: value.clone() for name, value in runner.model.named_parameters()}
    runner.train()

    scalars = runner.message_hub.log_scalars
    assert np.isfinite(scalars['train/loss'].current()) and scalars['train/loss'].current() > 0
    assert 0 <= scalars['val/mIoU'].current() <= 100
    # The warm-up starts at 1e-6 of the rate: a step is tiny, but in float32 it moves what is near zero.
    moved = [name for name, value in runner.model.named_parameters() if not torch.equal(value, before[name])]
    assert any(name.startswith('backbone.') for name in moved)
    assert any(name.startswith('decode_head.') for name in moved)
    assert (tmp_path / 'iter_1.pth').is_file()

    if 'tta_model' not in cfg and path.stem not in WITH_TTA:
        return
    if 'tta_model' in cfg:
        resizes = cfg.tta_pipeline[1].transforms[0]
        for index, resize in enumerate(resizes):
            resize.scale = (64 + 16 * index, 48 + 12 * index)
    else:  # half of the images' size leaves the last stage a single position, too few for GroupNorm
        for transform in cfg.test_dataloader.dataset.pipeline:
            if 'scale' in transform:
                transform.scale = (128, 96)
    use_tta(cfg)
    assert 0 <= Runner.from_cfg(cfg).test()['mIoU'] <= 100
