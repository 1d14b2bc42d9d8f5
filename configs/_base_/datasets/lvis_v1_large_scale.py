# LVIS v1, 1203 classes, on the images of COCO.
_base_ = './coco_detection_large_scale.py'

data_root = 'data/lvis_v1/'
val_ann_file = 'annotations/lvis_v1_val.json'

train_pipeline = _base_.train_pipeline
train_pipeline[3].scale = [(2000, 600), (2000, 1200)]

dataset = dict(type='LVISFasterDataset', data_root=data_root, data_prefix=dict(img=''))
train_dataloader = dict(
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='ClassBalancedDataset',
        oversample_thr=1e-3,
        dataset=dict(
            ann_file='annotations/lvis_v1_train.json',
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=train_pipeline,
            **dataset)))
val_dataloader = dict(num_workers=1, dataset=dict(ann_file=val_ann_file, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True, type='LVISFasterMetric', ann_file=data_root + val_ann_file, metric=['bbox'], classwise=True)
test_evaluator = val_evaluator
