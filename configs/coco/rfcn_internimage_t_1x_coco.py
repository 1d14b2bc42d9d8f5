_base_ = [
    '../_base_/models/rfcn_internimage.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
]
