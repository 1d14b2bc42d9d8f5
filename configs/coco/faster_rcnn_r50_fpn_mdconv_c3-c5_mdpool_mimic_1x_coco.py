_base_ = './faster_rcnn_r50_fpn_mdconv_c3-c5_mdpool_1x_coco.py'

model = dict(
    type='MimicFasterRCNN',
    roi_head=dict(type='MimicRoIHead'),
    mimic=dict(num=32, patch_size=224, loss_weight=0.1))
