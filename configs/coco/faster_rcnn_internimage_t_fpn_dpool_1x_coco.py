_base_ = './faster_rcnn_internimage_t_fpn_1x_coco.py'

model = dict(
    roi_head=dict(
        bbox_roi_extractor=dict(
            type='DeformRoIExtractor',
            roi_layer=dict(type='DeformRoIPoolPack', output_channels=_base_.model.neck.out_channels))))
optim_wrapper = dict(paramwise_cfg=dict(roi_offset_lr_scale=0.1))
