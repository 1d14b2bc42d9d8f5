# The one feature map has stride 16, where an FPN has 4: the photos in their own size, in the time that a Faster R-CNN
# takes for half of it.
_base_ = [
    '../_base_/models/rfcn_thin.py',
    '../_base_/backbones/internimage_small.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/schedule_scratch_bccd.py',
]

image_scale = (640, 480)
channels = _base_.in_channels[2]
model = dict(
    backbone=dict(_base_.backbone, depths=[1, 1, 3], groups=[2, 4, 8], out_indices=(2, )),
    rpn_head=dict(
        in_channels=channels,
        anchor_generator=dict(scales=[2, 4, 8, 16])),  # from 32 pixels: platelets
    roi_head=dict(bbox_head=dict(in_channels=channels, num_classes=len(_base_.classes))))

train_pipeline = _base_.train_pipeline
train_pipeline[3].scale = image_scale
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
