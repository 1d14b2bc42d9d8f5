# The small Mask R-CNN for data in COCO's format, trained from scratch: the base of small models on your own data.
_base_ = [
    '../_base_/models/mask_rcnn_thin_fpn.py',
    '../_base_/backbones/internimage_small.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_scratch_det.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.in_channels))
train_dataloader = dict(dataset=dict(filter_cfg=dict(min_size=1)))
