# Open Images V6, 601 classes in a hierarchy. The `*-image-metas.pkl`, with the sizes of the images, are made by mmdet's
# tools/misc/get_image_metas.py.
_base_ = './coco_detection_large_scale.py'

data_root = 'data/OpenImages/'

train_pipeline = _base_.train_pipeline
train_pipeline[3].scale = [(2000, 600), (2000, 1200)]
test_pipeline = _base_.test_pipeline
test_pipeline[3].meta_keys = (*test_pipeline[3].meta_keys, 'instances', 'image_level_labels')

dataset = dict(
    _delete_=True,
    type='OpenImagesDataset',
    data_root=data_root,
    label_file='annotations/class-descriptions-boxable.csv',
    hierarchy_file='annotations/bbox_labels_600_hierarchy.json')
train_dataloader = dict(
    sampler=dict(_delete_=True, type='ClassAwareSampler', num_sample_class=1),
    dataset=dict(
        ann_file='annotations/oidv6-train-annotations-bbox.csv',
        data_prefix=dict(img='train/'),
        meta_file='annotations/train-image-metas.pkl',
        pipeline=train_pipeline,
        **dataset))
val_dataloader = dict(
    dataset=dict(
        ann_file='annotations/validation-annotations-bbox.csv',
        data_prefix=dict(img='validation/'),
        meta_file='annotations/validation-image-metas.pkl',
        image_level_ann_file='annotations/validation-annotations-human-imagelabels-boxable.csv',
        test_mode=True,
        pipeline=test_pipeline,
        **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True, type='OpenImagesMetric', iou_thrs=0.5, ioa_thrs=0.5, use_group_of=True, get_supercategory=True)
test_evaluator = val_evaluator
