# Street scenes (CamVid), 480 x 360 pixels, 11 classes; index 11 is void, to be ignored by the heads.
_base_ = './segmentation.py'

data_root = 'data/camvid/'
metainfo = dict(
    classes=('Sky', 'Building', 'Pole', 'Road', 'Pavement', 'Tree', 'SignSymbol', 'Fence', 'Car', 'Pedestrian',
             'Bicyclist'),
    palette=[[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
             [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]])
num_classes = len(metainfo['classes'])
void = num_classes
crop_size = (192, 256)
image_scale = (480, 360)
batch_size = 8

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=image_scale, ratio_range=(0.5, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75, ignore_index=void),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale

dataset = dict(type='BaseSegDataset', data_root=data_root, metainfo=metainfo, ignore_index=void)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    dataset=dict(
        data_prefix=dict(img_path='train', seg_map_path='trainannot'), pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(data_prefix=dict(img_path='val', seg_map_path='valannot'), pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ignore_index=void)
test_evaluator = val_evaluator
