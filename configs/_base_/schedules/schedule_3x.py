# Detection, 36 epochs.
_base_ = './schedule_1x.py'

train_cfg = dict(max_epochs=36)
param_scheduler = _base_.param_scheduler
param_scheduler[1].milestones = [27, 33]
