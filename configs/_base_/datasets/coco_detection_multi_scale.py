# COCO 2017 with boxes alone, trained with the resizing of DETR.
_base_ = ['./coco_detection.py', './detr_resize.py']

# The part is taken from an image of any aspect ratio, and has an object in it.
random_resize = _base_.random_resize
random_resize.transforms[1][0].scales = [(400, 4200), (500, 4200), (600, 4200)]
random_resize.transforms[1][1].allow_negative_crop = False

train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='RandomFlip', prob=0.5),
    random_resize,
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
