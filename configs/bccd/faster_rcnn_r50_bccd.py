# ResNet-50 from scratch on blood cells, to compare kinds of convolution (docs/spatial_support.md), not to be accurate.
_base_ = [
    '../_base_/models/faster_rcnn_thin_fpn.py',
    '../_base_/backbones/resnet.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/schedule_scratch_bccd.py',
]

model = dict(
    backbone=dict(_base_.backbone, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=_base_.in_channels),
    rpn_head=dict(anchor_generator=dict(scales=[4])),  # from 16 pixels
    roi_head=dict(bbox_head=dict(num_classes=len(_base_.classes))))

# 3 epochs of images a fifth in size take about 10 minutes on a busy core.
max_epochs = 3
image_scale = (128, 96)
train_pipeline = _base_.train_pipeline
train_pipeline[3].scale = image_scale
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0, norm_type=2))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].T_max = max_epochs

randomness = dict(seed=0)
