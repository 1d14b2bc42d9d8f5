# Blood cells (BCCD), Pascal VOC xml, 640 x 480 pixels.
_base_ = [
    '../_base_/models/faster_rcnn_thin_fpn.py',
    '../_base_/backbones/internimage_small.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/schedule_scratch_bccd.py',
]

model = dict(
    backbone=_base_.backbone,
    neck=dict(in_channels=_base_.in_channels),
    roi_head=dict(bbox_head=dict(num_classes=len(_base_.classes))))
