_base_ = [
    '../_base_/models/cascade_mask_rcnn_internimage_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
]
