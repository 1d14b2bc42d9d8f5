# COCO-Stuff 164k, 171 classes, in crops of 896 x 896 pixels; label 255 is ignored.
_base_ = './segmentation.py'

data_root = 'data/coco_stuff164k'
num_classes = 171
batch_size = 1
crop_size = (896, 896)
image_scale = (4 * crop_size[0], crop_size[0])

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = image_scale
train_pipeline[3].crop_size = crop_size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale

dataset = dict(type='COCOStuffDataset', data_root=data_root)
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        data_prefix=dict(img_path='images/train2017', seg_map_path='annotations/train2017'), pipeline=train_pipeline,
        **dataset))
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'), pipeline=test_pipeline,
        **dataset))
test_dataloader = val_dataloader
