# ADE20K in crops of 896 x 896 pixels, one per GPU.
_base_ = './ade20k.py'

crop_size = (896, 896)
batch_size = 1
image_scale = (4 * crop_size[0], crop_size[0])

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = image_scale
train_pipeline[3].crop_size = crop_size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale
train_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
