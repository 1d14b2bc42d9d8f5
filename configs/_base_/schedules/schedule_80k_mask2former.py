# Mask2Former with the huge variant, 80k iterations.
_base_ = './schedule_80k_large.py'

train_cfg = dict(val_interval=2000)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.95))
