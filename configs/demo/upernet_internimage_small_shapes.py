# The demo data set, generated on first use: 160 x 128 pixels, five classes of overlapping shapes and background.
_base_ = [
    '../_base_/models/upernet_thin.py',
    '../_base_/backbones/internimage_small.py',
    '../_base_/datasets/segmentation.py',
    '../_base_/schedules/schedule_scratch_seg.py',
]

batch_size = 8
data_root = 'data/shapes/'
num_classes = 6
crop_size = (128, 160)
image_scale = (160, 128)
max_iters = 400

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.in_channels, num_classes=num_classes),
    auxiliary_head=dict(in_channels=_base_.in_channels[2], num_classes=num_classes))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackSegInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale

dataset = dict(type='ShapesSegDataset', data_root=data_root, reduce_zero_label=False)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    dataset=dict(
        data_prefix=dict(img_path='images/train', seg_map_path='masks/train'), pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(data_prefix=dict(img_path='images/val', seg_map_path='masks/val'), pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_iters + 1

randomness = dict(seed=0)
