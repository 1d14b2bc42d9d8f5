# R-FCN. A config adds the backbone, of stride 16, and `in_channels` of both heads.
_base_ = './faster_rcnn_fpn.py'

stride = 16

model = dict(
    type='RFCN',
    neck=None,
    rpn_head=dict(
        type='SingleInputRPNHead',
        feat_channels=512,
        anchor_generator=dict(scales=[4, 8, 16, 32], strides=[stride]),
        loss_bbox=dict(type='SmoothL1Loss', beta=1.0 / 9.0)),
    roi_head=dict(
        _delete_=True,
        type='RFCNRoIHead',
        bbox_head=dict(
            type='RFCNHead',
            stride=stride,
            feat_channels=1024,
            pool_size=7,
            sampling_ratio=4,
            num_classes=80)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=6000, max_per_img=300),
        rcnn=dict(
            sampler=dict(num=10**6, pos_fraction=1.0),  # all of them: ohem chooses
            ohem=128)),
    test_cfg=dict(rpn=dict(nms_pre=6000, max_per_img=300), rcnn=dict(nms=dict(iou_threshold=0.3))))
