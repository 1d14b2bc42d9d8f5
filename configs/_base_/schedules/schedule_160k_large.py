# Segmentation with the large variants, 160k iterations: layers near the image learn slower, gradients are clipped.
_base_ = './schedule_160k.py'

lr = 2e-5
optim_wrapper = dict(
    optimizer=dict(lr=lr), paramwise_cfg=dict(layer_decay_rate=0.94), clip_grad=dict(max_norm=0.1, norm_type=2))
