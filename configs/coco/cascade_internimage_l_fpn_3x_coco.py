_base_ = [
    '../_base_/models/cascade_mask_rcnn_convfc_fpn.py',
    '../_base_/backbones/internimage_l.py',
    '../_base_/datasets/coco_instance_multi_scale.py',
    '../_base_/schedules/schedule_3x.py',
]

lr = 2e-4

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.in_channels))
optim_wrapper = dict(
    optimizer=dict(lr=lr), paramwise_cfg=dict(layer_decay_rate=0.9, offset_lr_scale=0.01))
