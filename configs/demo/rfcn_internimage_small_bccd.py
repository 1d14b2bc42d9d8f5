_base_ = [
    '../_base_/models/rfcn_internimage_small.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/schedule_scratch_bccd.py',
]

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[1, 2, 4, 8])),  # from 16 pixels: platelets
    roi_head=dict(bbox_head=dict(num_classes=len(_base_.classes))))
