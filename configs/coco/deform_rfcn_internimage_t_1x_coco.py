_base_ = './rfcn_internimage_t_1x_coco.py'

model = dict(roi_head=dict(bbox_head=dict(deformable=True)))
optim_wrapper = dict(paramwise_cfg=dict(roi_offset_lr_scale=0.1))
