# NYU Depth v2, the 40 classes of its semantic labels, images of 640 x 480 pixels; label 0 is ignored.
_base_ = './segmentation.py'

data_root = 'data/nyu_depth_v2/'
num_classes = 40
crop_size = (480, 480)
image_scale = (640, 480)  # of the test; in training the base's (2048, 512)
batch_size = 1

train_pipeline = _base_.train_pipeline
train_pipeline[3].crop_size = crop_size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale

dataset = dict(
    type='NYUDepthV2Dataset',
    data_root=data_root,
    data_prefix=dict(img_path='image', seg_map_path='label40'),
    reduce_zero_label=True)
train_dataloader = dict(batch_size=batch_size, dataset=dict(ann_file='train.txt', pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(ann_file='test.txt', pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
