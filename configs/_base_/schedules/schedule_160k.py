# Segmentation, 160k iterations. Shorter schedules have this file as their `_base_`.
_base_ = '../default_runtime.py'

max_iters = 160000
lr = 6e-5
warmup_iters = 1500

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='CustomLayerDecayOptimizerConstructor',
    paramwise_cfg=dict(layer_decay_rate=1.0))

# Officially the decay runs from iteration 0 and the warm-up multiplies it:
#     lr(i) = lr * (1 - i / max_iters) * warmup(i).
# Both schedulers below are pure factors (PolyLR because eta_min is 0), so together they give that very product. Each
# is at its last value in step `end - 1`, hence the + 1.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=warmup_iters + 1),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=max_iters + 1),
]

auto_scale_lr = dict(enable=False, base_batch_size=16)  # 8 GPUs x 2 images

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=1000, max_keep_ckpts=1, save_best='mIoU'),
    visualization=dict(type='SegVisualizationHook'))
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False)
