_base_ = [
    '../_base_/models/cbdino_4scale_internimage_h.py',
    '../_base_/datasets/openimages_large_scale.py',
    '../_base_/schedules/schedule_dino_20k.py',
]

max_iters = 100000
load_from = 'https://huggingface.co/OpenGVLab/InternImage/resolve/main/dino_4scale_cbinternimage_h_objects365_80classes.pth'
model = dict(bbox_head=dict(num_classes=601))

interval = 2000
train_cfg = dict(max_iters=max_iters, val_interval=interval)
default_hooks = dict(checkpoint=dict(interval=interval, save_best='openimages/mAP'))
