_base_ = ['./faster_rcnn_internimage_fpn.py', './resnet.py']

model = dict(
    backbone=dict(_delete_=True, **_base_.resnet),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
