_base_ = [
    '../_base_/models/cbdino_4scale_internimage_h.py',
    '../_base_/datasets/voc0712_large_scale.py',
    '../_base_/schedules/schedule_dino_20k.py',
]

lr = 5e-5
load_from = 'https://huggingface.co/OpenGVLab/InternImage/resolve/main/dino_4scale_cbinternimage_h_objects365_20classes.pth'
model = dict(bbox_head=dict(num_classes=20))

interval = 500
train_cfg = dict(val_interval=interval)
optim_wrapper = dict(optimizer=dict(lr=lr))
default_hooks = dict(checkpoint=dict(interval=interval, save_best='pascal_voc/mAP'))
