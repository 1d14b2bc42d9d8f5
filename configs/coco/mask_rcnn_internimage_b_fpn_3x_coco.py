_base_ = [
    '../_base_/models/mask_rcnn_fpn.py',
    '../_base_/backbones/internimage_b.py',
    '../_base_/datasets/coco_instance_multi_scale.py',
    '../_base_/schedules/schedule_3x.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.in_channels))
