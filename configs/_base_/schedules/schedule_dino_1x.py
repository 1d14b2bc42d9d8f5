# DINO, 12 epochs.
_base_ = './schedule_1x.py'

optim_wrapper = dict(
    optimizer=dict(weight_decay=1e-4),
    paramwise_cfg=dict(layer_decay_rate=0.9),
    clip_grad=dict(max_norm=0.1, norm_type=2))
param_scheduler = _base_.param_scheduler
param_scheduler[1].milestones = [11]
