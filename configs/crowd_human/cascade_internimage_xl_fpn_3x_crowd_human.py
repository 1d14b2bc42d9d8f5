_base_ = [
    '../_base_/models/cascade_mask_rcnn_fpn.py',
    '../_base_/backbones/internimage_xl.py',
    '../_base_/datasets/crowd_human.py',
    '../_base_/schedules/schedule_3x.py',
]

checkpoint = 'https://github.com/OpenGVLab/InternImage/releases/download/cls_model/internimage_xl_22k_192to384.pth'
model = dict(
    data_preprocessor=dict(pad_mask=False),
    backbone=dict(_base_.backbone, init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=_base_.in_channels),
    roi_head=dict(
        bbox_head=[dict(head, num_classes=1) for head in _base_.model.roi_head.bbox_head],
        mask_roi_extractor=None,
        mask_head=None))

optim_wrapper = dict(optimizer=dict(weight_decay=1e-4), paramwise_cfg=dict(layer_decay_rate=0.94))
train_cfg = dict(val_interval=100)  # at the end
default_hooks = dict(checkpoint=dict(save_best='crowd_human/mAP'))
