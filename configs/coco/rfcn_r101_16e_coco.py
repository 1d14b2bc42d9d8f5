# The papers' R-FCN: conv5 is dilated instead of strided, the RPN looks at conv4. 240k iterations of 8 GPUs x 1 image
# are 16 epochs, of which the last third has a tenth of the learning rate.
_base_ = [
    '../_base_/models/rfcn.py',
    '../_base_/backbones/resnet.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x_sgd.py',
]

batch_size = 1
lr = 1e-3
max_epochs = 16
image_scale = (1000, 600)

backbone = dict(
    _base_.backbone,
    depth=101,
    strides=(1, 2, 2, 1),
    dilations=(1, 1, 1, 2),
    out_indices=(2, 3),
    norm_cfg=dict(type='BN', requires_grad=False),
    init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'))
model = dict(
    backbone=backbone,
    rpn_head=dict(in_channels=1024),
    roi_head=dict(bbox_head=dict(in_channels=2048)))

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = image_scale
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale
train_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=lr, weight_decay=5e-4))
param_scheduler = _base_.param_scheduler
param_scheduler[1].milestones = [round(max_epochs * 2 / 3)]
auto_scale_lr = dict(base_batch_size=8)
