_base_ = [
    '../_base_/models/upernet_internimage.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/schedule_160k.py',
]

model = dict(data_preprocessor=dict(size=_base_.crop_size))
