_base_ = [
    '../_base_/models/mask2former.py',
    '../_base_/backbones/internimage_h.py',
    '../_base_/datasets/mapillary_896x896.py',
    '../_base_/schedules/schedule_80k_mask2former.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=_base_.backbone,
    decode_head=dict(
        in_channels=_base_.in_channels,
        num_classes=_base_.num_classes,
        loss_cls=dict(class_weight=[1.0] * _base_.num_classes + [0.1])),
    test_cfg=dict(mode='slide', crop_size=_base_.crop_size, stride=(512, 512)))
