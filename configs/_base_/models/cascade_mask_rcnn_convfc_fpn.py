# Cascade Mask R-CNN with four convolutions and one fully connected layer in each box head, which regresses for every
# class and is trained by GIoU.
_base_ = './cascade_mask_rcnn_fpn.py'

model = dict(
    roi_head=dict(
        bbox_head=[
            dict(
                head,
                type='ConvFCBBoxHead',
                num_shared_convs=4,
                num_shared_fcs=1,
                conv_out_channels=256,
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                norm_cfg=dict(type='SyncBN', requires_grad=True),
                loss_bbox=dict(type='GIoULoss', loss_weight=10.0)) for head in _base_.model.roi_head.bbox_head
        ]))
