# The small UPerNet, trained from scratch: the base of small models on your own data.
_base_ = [
    '../_base_/models/upernet_thin.py',
    '../_base_/backbones/internimage_small.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/schedule_scratch_seg.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.in_channels),
    auxiliary_head=dict(in_channels=_base_.in_channels[2]))
