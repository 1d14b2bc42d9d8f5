_base_ = './mask_rcnn_internimage_t_fpn_dpool_1x_coco.py'

modulated = dict(roi_layer=dict(type='ModulatedDeformRoIPoolPack'))
model = dict(roi_head=dict(bbox_roi_extractor=modulated, mask_roi_extractor=modulated))
