# Blood cells (BCCD), Pascal VOC xml, 640 x 480 pixels.
_base_ = './coco_detection.py'

data_root = 'data/bccd/BCCD/'
classes = ('RBC', 'WBC', 'Platelets')
batch_size = 4
image_scale = (320, 240)  # cells are about 100 pixels wide in the photos

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    # Two boxes of this data set have no area: nothing can be regressed to them.
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='RandomResize', scale=image_scale, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale

dataset = dict(
    _delete_=True,
    type='XMLDataset',
    data_root=data_root,
    data_prefix=dict(sub_data_root=''),
    metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=batch_size, dataset=dict(ann_file='ImageSets/Main/train.txt', pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    dataset=dict(ann_file='ImageSets/Main/val.txt', test_mode=True, pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP', eval_mode='area')
test_evaluator = val_evaluator
