_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/backbones/internimage_l.py',
    '../_base_/datasets/cityscapes_extra.py',
    '../_base_/schedules/schedule_160k_large.py',
]

# 150 classes, of which the data have 19: the number of the official configs.
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_base_.backbone, init_cfg=None),
    decode_head=dict(in_channels=_base_.in_channels),
    auxiliary_head=dict(in_channels=_base_.in_channels[2]))
load_from = (
    'https://huggingface.co/OpenGVLab/InternImage/resolve/main/'
    'segformer_internimage_l_512x1024_80k_mapillary.pth')
train_cfg = dict(val_interval=4000)
