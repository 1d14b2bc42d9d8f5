_base_ = [
    '../_base_/models/rfcn.py',
    '../_base_/backbones/internimage_t.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
]

# The first three stages, of stride 4, 8 and 16.
channels = _base_.in_channels[2]
model = dict(
    backbone=dict(_base_.backbone, depths=[4, 4, 18], groups=[4, 8, 16], out_indices=(2, )),
    rpn_head=dict(in_channels=channels),
    roi_head=dict(bbox_head=dict(in_channels=channels)))
