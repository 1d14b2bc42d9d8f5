# UPerNet with the small variant (1.3 M parameters in the backbone) and a thin head, trained from scratch: minutes on a
# laptop. A data set sets the number of classes and the crop size.
_base_ = './upernet_internimage.py'

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(
        channels=32,
        depths=[1, 1, 3, 1],
        groups=[2, 4, 8, 16],
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        layer_scale=None,
        init_cfg=None),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=64, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=128, channels=32, norm_cfg=norm_cfg))
