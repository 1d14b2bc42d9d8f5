# Street scenes (CamVid), 480 x 360 pixels, 11 classes.
_base_ = [
    '../_base_/models/mask2former_thin.py',
    '../_base_/backbones/internimage_small.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/schedule_scratch_seg.py',
]

lr = 1e-3
warmup_iters = 100
num_classes = _base_.num_classes
void = _base_.void
max_iters = 2000

model = dict(
    data_preprocessor=dict(size=_base_.crop_size, seg_pad_val=void),
    backbone=_base_.backbone,
    decode_head=dict(
        in_channels=_base_.in_channels,
        num_classes=num_classes,
        ignore_index=void,
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1])),
    auxiliary_head=dict(in_channels=_base_.in_channels[2], num_classes=num_classes, ignore_index=void))

train_cfg = dict(max_iters=max_iters, val_interval=1000)
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = warmup_iters + 1
param_scheduler[1].end = max_iters + 1
