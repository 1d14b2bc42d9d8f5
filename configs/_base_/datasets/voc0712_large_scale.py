# Pascal VOC, 20 classes: trained on 2007 and 2012, evaluated on the test set of 2007.
_base_ = './coco_detection_large_scale.py'

data_root = 'data/VOCdevkit/'

train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='Resize', scale=(1000, 600), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]

dataset = dict(type='VOCDataset', data_root=data_root)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=3,
        dataset=dict(
            type='ConcatDataset',
            ignore_keys=['dataset_type'],  # the year
            datasets=[
                dict(
                    ann_file=f'VOC{year}/ImageSets/Main/trainval.txt',
                    data_prefix=dict(sub_data_root=f'VOC{year}/'),
                    filter_cfg=dict(filter_empty_gt=True, min_size=32),
                    pipeline=train_pipeline,
                    **dataset) for year in (2007, 2012)
            ])))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        ann_file='VOC2007/ImageSets/Main/test.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        test_mode=True,
        pipeline=_base_.test_pipeline,
        **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP', eval_mode='11points')
test_evaluator = val_evaluator
