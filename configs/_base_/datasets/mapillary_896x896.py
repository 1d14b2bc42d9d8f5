# Mapillary Vistas in crops of 896 x 896 pixels.
_base_ = './mapillary.py'

crop_size = (896, 896)

train_pipeline = _base_.train_pipeline
train_pipeline[2].ratio_range = (0.5, 2.0)
train_pipeline[3].crop_size = crop_size
test_pipeline = _base_.test_pipeline
test_pipeline.insert(2, dict(type='ResizeToMultiple', size_divisor=32))
train_sets = _base_.train_dataloader.dataset.datasets
train_dataloader = dict(dataset=dict(datasets=[dict(train_set, pipeline=train_pipeline) for train_set in train_sets]))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
