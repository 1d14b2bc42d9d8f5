_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/backbones/internimage_l.py',
    '../_base_/datasets/mapillary.py',
    '../_base_/schedules/schedule_80k_large.py',
]

# 150 classes, of which the data have 19: the number of the official configs.
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.in_channels),
    auxiliary_head=dict(in_channels=_base_.in_channels[2]))
