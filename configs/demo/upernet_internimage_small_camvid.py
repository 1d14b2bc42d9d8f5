# Street scenes (CamVid), 480 x 360 pixels, 11 classes.
_base_ = [
    '../_base_/models/upernet_thin.py',
    '../_base_/backbones/internimage_small.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/schedule_scratch_seg.py',
]

void = _base_.void
max_iters = 1200

model = dict(
    data_preprocessor=dict(size=_base_.crop_size, seg_pad_val=void),
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.in_channels, num_classes=_base_.num_classes, ignore_index=void),
    auxiliary_head=dict(in_channels=_base_.in_channels[2], num_classes=_base_.num_classes, ignore_index=void))

train_cfg = dict(max_iters=max_iters, val_interval=600)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_iters + 1
