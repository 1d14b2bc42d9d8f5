"""Configs of a Mask R-CNN and a segmentor that run in milliseconds, and checkpoints of them, untrained."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

RCNN_TEST = dict(score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5, mask_thr_binary=0.5)
RPN_TEST = dict(nms_pre=100, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)
NORMALIZE = dict(mean=[127.0, 120.0, 110.0], std=[60.0, 61.0, 62.0], bgr_to_rgb=True)  # uneven: channels are told apart


def detector(classes: int = 2, scale: tuple[int, int] = (128, 96)) -> Config:
    def roi_layer(size):
        layer = dict(type='RoIAlign', output_size=size, sampling_ratio=0)
        return dict(type='SingleRoIExtractor', out_channels=16, featmap_strides=[4, 8, 16, 32], roi_layer=layer)

    model = dict(
        type='MaskRCNN',
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32, **NORMALIZE),
        backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
        neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
        rpn_head=dict(
            type='RPNHead',
            in_channels=16,
            feat_channels=16,
            anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[4, 8, 16, 32, 64]),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
            loss_bbox=dict(type='L1Loss'),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=roi_layer(7),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=16,
                fc_out_channels=32,
                roi_feat_size=7,
                num_classes=classes,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
                loss_cls=dict(type='CrossEntropyLoss'),
                loss_bbox=dict(type='L1Loss'),
            ),
            mask_roi_extractor=roi_layer(7),
            mask_head=dict(
                type='FCNMaskHead',
                num_convs=1,
                in_channels=16,
                conv_out_channels=16,
                num_classes=classes,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True),
            ),
        ),
        train_cfg=None,
        test_cfg=dict(rpn=RPN_TEST, rcnn=RCNN_TEST),
    )
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=scale, keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ]
    dataset = dict(type='CocoDataset', metainfo=dict(classes=names(classes)), pipeline=pipeline)
    return Config(dict(default_scope='mmdet', model=model, test_dataloader=dict(dataset=dataset)))


def segmentor(classes: int = 3, scale: tuple[int, int] = (64, 48), **head) -> Config:
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', **NORMALIZE),
        backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
        decode_head=dict(
            type='FCNHead',
            in_channels=64,
            in_index=3,
            channels=16,
            num_convs=1,
            concat_input=False,
            num_classes=classes,
            norm_cfg=dict(type='BN'),
            **head,
        ),
        test_cfg=dict(mode='whole'),
    )
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=scale, keep_ratio=True),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    dataset = dict(type='BaseSegDataset', metainfo=dict(classes=names(classes)), pipeline=pipeline)
    return Config(dict(default_scope='mmseg', model=model, test_dataloader=dict(dataset=dataset)))


def names(classes: int) -> tuple[str, ...]:
    return tuple(f'class {index}' for index in range(classes))


def save_checkpoint(cfg: Config, path: Path, seed: int = 0, **meta) -> Path:
    """Random weights of which every layer matters, and `meta['dataset_meta']`."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    torch.save({'state_dict': model.state_dict(), 'meta': {'dataset_meta': meta}}, path)
    return path
