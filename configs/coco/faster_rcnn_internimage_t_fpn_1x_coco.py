_base_ = [
    '../_base_/models/faster_rcnn_fpn.py',
    '../_base_/backbones/internimage_t.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.in_channels))
