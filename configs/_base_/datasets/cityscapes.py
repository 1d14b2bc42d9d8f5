# Cityscapes, 19 classes, images of 2048 x 1024 pixels.
_base_ = './segmentation.py'

data_root = 'data/cityscapes/'
num_classes = 19
crop_size = (512, 1024)
image_scale = (2048, 1024)

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = image_scale
train_pipeline[3].crop_size = crop_size
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

dataset = dict(type='CityscapesDataset', data_root=data_root)
train_dataloader = dict(
    num_workers=2,
    dataset=dict(
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'), pipeline=train_pipeline,
        **dataset))
val_dataloader = dict(
    num_workers=2,
    dataset=dict(
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'), pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
