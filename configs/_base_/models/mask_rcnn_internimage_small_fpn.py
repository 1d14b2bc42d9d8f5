# Mask R-CNN with the small variant (1.3 M parameters in the backbone) and thin heads, to be trained from scratch in
# minutes on a laptop. A data set sets the number of classes.
_base_ = './mask_rcnn_internimage_fpn.py'

width = 64
norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)  # heads that start from nothing want one
model = dict(
    backbone=dict(
        channels=32,
        depths=[1, 1, 3, 1],
        groups=[2, 4, 8, 16],
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        layer_scale=None,
        init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=width, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), out_channels=width),
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=1,
            num_shared_fcs=1,
            conv_out_channels=width,
            in_channels=width,
            fc_out_channels=256,
            reg_class_agnostic=True,
            norm_cfg=norm_cfg),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), out_channels=width),
        mask_head=dict(
            class_agnostic=True, num_convs=2, in_channels=width, conv_out_channels=width, norm_cfg=norm_cfg)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=300),
        rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300)))
