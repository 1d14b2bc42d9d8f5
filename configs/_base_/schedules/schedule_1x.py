# Detection, 12 epochs. Longer schedules have this file as their `_base_`.
_base_ = '../default_runtime.py'

max_epochs = 12
lr = 1e-4
warmup_iters = 500

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, weight_decay=0.05),
    constructor='CustomLayerDecayOptimizerConstructor',
    paramwise_cfg=dict(layer_decay_rate=1.0))

# LinearLR is at its last value in step `end - 1`; the official warm-up is there in step `warmup_iters`: hence the + 1.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=warmup_iters + 1),
    dict(type='MultiStepLR', milestones=[8, 11], gamma=0.1, by_epoch=True),
]

auto_scale_lr = dict(enable=False, base_batch_size=16)  # 8 GPUs x 2 images

# The official save_best='auto' takes the first metric, box AP. In mmdet 3 the first one is the AP of the first class
# as soon as `classwise` is set, so the metric is named.
default_hooks = dict(
    checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=3, save_last=True, save_best='coco/bbox_mAP'),
    visualization=dict(type='DetVisualizationHook'))
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
