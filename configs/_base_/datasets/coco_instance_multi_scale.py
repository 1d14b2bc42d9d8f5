# COCO 2017 with boxes and masks, trained with the resizing of DETR.
_base_ = ['./coco_instance.py', './detr_resize.py']

train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='RandomFlip', prob=0.5),
    _base_.random_resize,
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
