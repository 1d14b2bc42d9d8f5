# Nuclei in microscopy images (2018 Data Science Bowl), COCO json with RLE masks, 256 x 256 pixels.
_base_ = [
    '../_base_/models/mask_rcnn_thin_fpn.py',
    '../_base_/backbones/internimage_small.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_scratch_det.py',
]

batch_size = 4
data_root = 'data/nuclei/'
classes = ('nucleus', )
max_epochs = 6

# Half of the nuclei are under 14 pixels wide: larger images, and anchors from 16 pixels on.
image_scale = (384, 384)
model = dict(
    backbone=_base_.backbone,
    neck=dict(in_channels=_base_.in_channels),
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=500), rcnn=dict(max_per_img=200)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=image_scale, ratio_range=(0.75, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(256, 256)),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale

dataset = dict(
    data_root=data_root, metainfo=dict(classes=classes), data_prefix=dict(img='images/'))
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        ann_file='instances_train.json', filter_cfg=dict(min_size=1), pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(ann_file='instances_val.json', pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'instances_val.json', classwise=False)
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].T_max = max_epochs
default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP'))
