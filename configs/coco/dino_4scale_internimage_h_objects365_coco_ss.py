_base_ = [
    '../_base_/models/dino_4scale_large.py',
    '../_base_/backbones/internimage_h.py',
    '../_base_/datasets/coco_detection_large_scale.py',
    '../_base_/schedules/schedule_dino_20k.py',
]

model = dict(
    backbone=dict(_base_.backbone, with_cp=True, out_indices=(1, 2, 3), init_cfg=None),
    neck=dict(in_channels=_base_.in_channels[1:]))
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
