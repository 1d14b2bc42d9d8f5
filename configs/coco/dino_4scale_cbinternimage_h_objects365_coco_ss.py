_base_ = [
    '../_base_/models/cbdino_4scale_internimage_h.py',
    '../_base_/datasets/coco_detection_large_scale.py',
    '../_base_/schedules/schedule_dino_20k.py',
]

load_from = 'https://huggingface.co/OpenGVLab/InternImage/resolve/main/dino_4scale_cbinternimage_h_objects365_80classes.pth'
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
