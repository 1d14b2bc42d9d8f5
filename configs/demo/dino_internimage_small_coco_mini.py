# DINO on 80 photos of COCO: whether it learns, not how well.
_base_ = [
    '../_base_/models/dino_4scale_thin.py',
    '../_base_/backbones/internimage_small.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_scratch_det.py',
]

lr = 3e-4
data_root = 'data/coco_mini/'
max_epochs = 24
image_scale = (320, 320)

model = dict(
    backbone=dict(_base_.backbone, out_indices=(1, 2, 3)),
    neck=dict(in_channels=_base_.in_channels[1:]))

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = image_scale
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json', classwise=False)
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=lr, weight_decay=1e-4), clip_grad=dict(max_norm=0.1))
train_cfg = dict(max_epochs=max_epochs, val_interval=8)
param_scheduler = _base_.param_scheduler
param_scheduler[1].T_max = max_epochs

randomness = dict(seed=0)
