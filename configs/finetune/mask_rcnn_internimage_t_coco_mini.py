# Fine-tuning the official Mask R-CNN on five classes of a small data set in COCO's format: docs/finetuning.md.
_base_ = '../coco/mask_rcnn_internimage_t_fpn_1x_coco.py'

classes = ('person', 'car', 'chair', 'bottle', 'cup')  # sets every head and data set
data_root = 'data/coco_mini/'
load_from = 'https://huggingface.co/OpenGVLab/InternImage/resolve/main/mask_rcnn_internimage_t_fpn_1x_coco.pth'

train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

# A tenth of the official learning rate, a short warm-up, and no more epochs than a small data set bears.
max_epochs = 6
lr = 1e-5
warmup_iters = 50
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warmup_iters + 1),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
