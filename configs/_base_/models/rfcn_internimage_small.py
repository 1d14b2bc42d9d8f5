# R-FCN with the small variant (0.5 M parameters in its three stages) and thin heads, to be trained from scratch in
# minutes on a laptop. A data set sets the number of classes.
_base_ = './rfcn_internimage.py'

channels = 128
width = 128
model = dict(
    backbone=dict(
        channels=32,
        depths=[1, 1, 3],
        groups=[2, 4, 8],
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        layer_scale=None,
        init_cfg=None),
    rpn_head=dict(in_channels=channels, feat_channels=width),
    roi_head=dict(
        bbox_head=dict(
            in_channels=channels,
            feat_channels=width,
            sampling_ratio=2,
            norm_cfg=dict(type='GN', num_groups=8, requires_grad=True))),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500)),
    test_cfg=dict(rpn=dict(nms_pre=500)))
