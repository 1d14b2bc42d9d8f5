# R-FCN with thin heads, to be trained from scratch in minutes on a laptop, with the small InternImage. A config adds
# the backbone and the number of classes.
_base_ = './rfcn.py'

width = 128
model = dict(
    rpn_head=dict(feat_channels=width),
    roi_head=dict(
        bbox_head=dict(
            feat_channels=width,
            sampling_ratio=2,
            norm_cfg=dict(type='GN', num_groups=8, requires_grad=True))),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500)),
    test_cfg=dict(rpn=dict(nms_pre=500)))
