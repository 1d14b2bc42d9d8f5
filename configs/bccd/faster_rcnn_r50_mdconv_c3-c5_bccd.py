_base_ = './faster_rcnn_r50_dconv_c3-c5_bccd.py'

model = dict(backbone=dict(dcn=dict(type='DCNv2')))
optim_wrapper = dict(paramwise_cfg=dict(dcn_offset_lr_mult=0.1))
