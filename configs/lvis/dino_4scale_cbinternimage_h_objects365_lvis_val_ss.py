_base_ = [
    '../_base_/models/cbdino_4scale_internimage_h.py',
    '../_base_/datasets/lvis_v1_large_scale.py',
    '../_base_/schedules/schedule_dino_20k.py',
]

max_iters = 80000
load_from = 'https://huggingface.co/OpenGVLab/InternImage/resolve/main/dino_4scale_cbinternimage_h_objects365_80classes.pth'
model = dict(bbox_head=dict(num_classes=1203))

interval = 500
train_cfg = dict(max_iters=max_iters, val_interval=interval)
default_hooks = dict(checkpoint=dict(interval=interval, max_keep_ckpts=10))
