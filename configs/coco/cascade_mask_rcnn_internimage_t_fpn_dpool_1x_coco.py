_base_ = './cascade_mask_rcnn_internimage_t_fpn_1x_coco.py'

# Three stages of four levels: with the 1024 hidden channels of a Faster R-CNN the box pools alone would have 170 M
# parameters, 324 M with modulation.
extractor = dict(
    type='DeformRoIExtractor',
    roi_layer=dict(
        type='DeformRoIPoolPack', output_channels=_base_.model.neck.out_channels, deform_fc_channels=256))
model = dict(roi_head=dict(bbox_roi_extractor=extractor))
optim_wrapper = dict(paramwise_cfg=dict(roi_offset_lr_scale=0.1))
