# Training a small segmentor from scratch. A config sets max_iters and, with it, the end of the polynomial.
_base_ = './schedule_160k.py'

max_iters = 1000
lr = 2e-3
warmup_iters = 30
train_cfg = dict(max_iters=max_iters, val_interval=250)
optim_wrapper = dict(optimizer=dict(lr=lr), clip_grad=dict(max_norm=10.0, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warmup_iters + 1),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=max_iters + 1),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=250))
