_base_ = [
    '../_base_/models/dino_4scale.py',
    '../_base_/backbones/internimage_l.py',
    '../_base_/datasets/coco_detection_multi_scale.py',
    '../_base_/schedules/schedule_dino_1x.py',
]

model = dict(
    backbone=dict(_base_.backbone, out_indices=(1, 2, 3)),
    neck=dict(in_channels=_base_.in_channels[1:]),
    test_cfg=dict(max_per_img=300))
