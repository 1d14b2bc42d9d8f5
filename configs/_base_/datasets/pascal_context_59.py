# Pascal Context, 59 classes; label 0, the background, is ignored.
_base_ = './segmentation.py'

data_root = 'data/VOCdevkit/VOC2010/'
num_classes = 59
crop_size = (480, 480)
image_scale = (4096, 520)  # of the test
batch_size = 1

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = (520, 520)
train_pipeline[3].crop_size = crop_size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale

dataset = dict(
    type='PascalContextDataset59',
    data_root=data_root,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassContext'),
    reduce_zero_label=True)
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(ann_file='ImageSets/SegmentationContext/train.txt', pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    dataset=dict(ann_file='ImageSets/SegmentationContext/val.txt', pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
