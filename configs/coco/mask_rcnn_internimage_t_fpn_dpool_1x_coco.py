_base_ = './mask_rcnn_internimage_t_fpn_1x_coco.py'

pool = dict(type='DeformRoIPoolPack', output_channels=_base_.model.neck.out_channels)
model = dict(
    roi_head=dict(
        bbox_roi_extractor=dict(type='DeformRoIExtractor', roi_layer=pool),
        # 14 x 14 bins are four times as many: a quarter of the hidden channels gives layers of the same size.
        mask_roi_extractor=dict(type='DeformRoIExtractor', roi_layer=dict(pool, deform_fc_channels=1024 // 4))))
optim_wrapper = dict(paramwise_cfg=dict(roi_offset_lr_scale=0.1))
