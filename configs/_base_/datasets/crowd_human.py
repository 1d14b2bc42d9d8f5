# CrowdHuman: full boxes of persons, in the annotation files (.odgt) that it is published with.
_base_ = ['./coco_detection.py', './detr_resize.py']

data_root = 'data/CrowdHuman/'
val_ann_file = 'annotations/annotation_val.odgt'

train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='RandomFlip', prob=0.5),
    _base_.random_resize,
    dict(type='PackDetInputs'),
]

dataset = dict(
    _delete_=True, type='CrowdHumanDataset', data_root=data_root, data_prefix=dict(img='Images'))
train_dataloader = dict(
    dataset=dict(ann_file='annotations/annotation_train.odgt', pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    dataset=dict(ann_file=val_ann_file, test_mode=True, pipeline=_base_.test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True, type='CrowdHumanMetric', ann_file=data_root + val_ann_file, metric=['AP', 'MR', 'JI'])
test_evaluator = val_evaluator
