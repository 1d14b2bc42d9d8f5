# Fine-tuning a large DINO, by iterations, at a rate that stays as it is after the warm-up.
_base_ = '../default_runtime.py'

max_iters = 20000
lr = 1e-4
warmup_iters = 500
interval = 200  # of evaluations and checkpoints

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=interval)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, weight_decay=1e-4),
    constructor='CustomLayerDecayOptimizerConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.94, offset_lr_scale=0.001),
    clip_grad=dict(max_norm=0.1, norm_type=2))

# See schedule_1x.py for the + 1.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=warmup_iters + 1),
]

# The metric of save_best is the data set's.
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=interval, max_keep_ckpts=3),
    visualization=dict(type='DetVisualizationHook'))
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False)
