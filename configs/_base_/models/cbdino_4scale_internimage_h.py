# DINO on two InternImage-H, one feeding the other (CBNetV2): the model of all official composite-backbone configs.
_base_ = ['./dino_4scale_large.py', '../backbones/internimage_h.py']

model = dict(
    type='CBDINO',
    backbone=dict(
        _base_.backbone,
        type='CBInternImage',
        with_cp=True,
        out_indices=((0, 1, 2, 3), (1, 2, 3)),  # of the one that feeds, and of the one that is fed
        init_cfg=None),  # a config loads the whole detector
    neck=dict(type='CBChannelMapper', in_channels=_base_.in_channels[1:]),
    bbox_head=dict(type='CBDINOHead'))
