# Mask2Former with the huge variant, 40k iterations, gradients as they are.
_base_ = './schedule_80k_mask2former.py'

max_iters = 40000
train_cfg = dict(max_iters=max_iters)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_iters + 1
optim_wrapper = dict(clip_grad=None)
