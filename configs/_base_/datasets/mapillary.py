# Mapillary Vistas 1.2 in the 19 classes of Cityscapes, trained on both its labelled parts, scored on Cityscapes.
_base_ = './cityscapes.py'

data_root = 'data/Mapillary/'

train_pipeline = _base_.train_pipeline
train_pipeline[2].ratio_range = (0.5, 1.0)

train_set = dict(type='MapillaryCityscapesDataset', data_root=data_root, pipeline=train_pipeline)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            dict(train_set, data_prefix=dict(img_path='training/images', seg_map_path='training/labels')),
            dict(train_set, data_prefix=dict(img_path='validation/images', seg_map_path='validation/labels')),
        ]))
