# The demo data set, generated on first use: 160 x 128 pixels, five classes of overlapping shapes.
_base_ = [
    '../_base_/models/mask_rcnn_thin_fpn.py',
    '../_base_/backbones/internimage_small.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_scratch_det.py',
]

batch_size = 4
data_root = 'data/shapes/'
num_classes = 5
max_epochs = 5
image_scale = (160, 128)

model = dict(
    backbone=_base_.backbone,
    neck=dict(in_channels=_base_.in_channels),
    rpn_head=dict(anchor_generator=dict(scales=[4])),  # shapes of 30 to 72 pixels
    roi_head=dict(bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)),
    test_cfg=dict(rcnn=dict(max_per_img=30)))  # a scene has at most 6

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale

dataset = dict(type='ShapesDataset', data_root=data_root)
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/train/'),
        filter_cfg=dict(min_size=1),
        pipeline=train_pipeline,
        **dataset))
val_dataloader = dict(
    dataset=dict(
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/val/'),
        pipeline=test_pipeline,
        **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].T_max = max_epochs

randomness = dict(seed=0)
