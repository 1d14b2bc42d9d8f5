# UPerNet with a thin head, to be trained from scratch in minutes on a laptop. A data set sets the number of classes.
_base_ = './upernet.py'

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    decode_head=dict(channels=64, norm_cfg=norm_cfg), auxiliary_head=dict(channels=32, norm_cfg=norm_cfg))
