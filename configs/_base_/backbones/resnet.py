# mmdet's ResNet-50 as detectors use it.
# A config uses `backbone` in its model, and `in_channels` (of the four stages) in the neck or head on top of it.
backbone = dict(
    type='ResNet',
    depth=50,
    num_stages=4,
    out_indices=(0, 1, 2, 3),
    frozen_stages=1,
    norm_cfg=dict(type='BN', requires_grad=True),
    norm_eval=True,
    style='pytorch',
    init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'))
in_channels = [256, 512, 1024, 2048]
