# Mask R-CNN with thin heads, to be trained from scratch in minutes on a laptop, with the small InternImage. A config
# adds the backbone and the number of classes.
_base_ = './mask_rcnn_fpn.py'

width = 64
norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)  # heads that start from nothing want one
model = dict(
    neck=dict(out_channels=width, norm_cfg=norm_cfg),
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
