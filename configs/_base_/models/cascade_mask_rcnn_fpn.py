# Cascade Mask R-CNN with an FPN: the Mask R-CNN with three box and mask heads, each trained on what overlaps the truth
# a little more than for the one before.
_base_ = './mask_rcnn_fpn.py'

ious = (0.5, 0.6, 0.7)
target_stds = ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])

bbox_head = dict(
    _base_.model.roi_head.bbox_head,
    reg_class_agnostic=True,
    loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0))
rcnn = _base_.model.train_cfg.rcnn
model = dict(
    type='CascadeRCNN',
    rpn_head=dict(loss_bbox=dict(type='SmoothL1Loss', beta=1.0 / 9.0)),
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=len(ious),
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[dict(bbox_head, bbox_coder=dict(bbox_head['bbox_coder'], target_stds=x)) for x in target_stds]),
    train_cfg=dict(
        rpn=dict(allowed_border=0),
        rpn_proposal=dict(max_per_img=2000),
        rcnn=[
            dict(
                rcnn,
                assigner=dict(
                    rcnn.assigner, pos_iou_thr=x, neg_iou_thr=x, min_pos_iou=x, match_low_quality=False))
            for x in ious
        ]))
