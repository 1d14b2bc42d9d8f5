# mmdet's schedule for ResNets, 12 epochs.
_base_ = './schedule_1x.py'

lr = 0.02
slow = dict(lr_mult=0.1)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=lr, momentum=0.9, weight_decay=1e-4),
    # What predicts the offsets and the modulation of RoI pools, where a model has them.
    paramwise_cfg=dict(custom_keys=dict(offset_fc=slow, mask_fc=slow, offset_conv=slow)))
