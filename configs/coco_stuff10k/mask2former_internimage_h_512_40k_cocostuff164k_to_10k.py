_base_ = [
    '../_base_/models/mask2former_large.py',
    '../_base_/backbones/internimage_h.py',
    '../_base_/datasets/coco_stuff10k.py',
    '../_base_/schedules/schedule_40k_mask2former.py',
]

lr = 1e-5

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_base_.backbone, init_cfg=None),
    decode_head=dict(
        in_channels=_base_.in_channels,
        num_classes=_base_.num_classes,
        loss_cls=dict(class_weight=[1.0] * _base_.num_classes + [0.1])))
load_from = (
    'https://huggingface.co/OpenGVLab/InternImage/resolve/main/'
    'mask2former_internimage_h_896_80k_cocostuff164k.pth')
optim_wrapper = dict(optimizer=dict(lr=lr))
