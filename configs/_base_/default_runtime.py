# What every run shares. Two files of one `_base_` list may not set the same key, so the schedules, which refine the
# hooks, have this file as their `_base_`, and a config lists model + dataset + schedule.
custom_imports = dict(imports=['internimage.openmmlab'])

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # What starts from a checkpoint, and checks: internimage/openmmlab/engine.
    fine_tune=dict(type='FineTuneHook'),
    resume=dict(type='ResumeHook'),
    batch_of_one=dict(type='BatchOfOneHook'),
    no_detection=dict(type='NoDetectionHook'))

log_level = 'INFO'
load_from = None
resume = False
