# One rate, a tenth of the head's, for the whole backbone.
_base_ = './dino_4scale_internimage_l_1x_coco_layer_wise_lr.py'

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, custom_keys=dict(backbone=dict(lr_mult=0.1))))
