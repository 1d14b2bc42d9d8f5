# Fine-tuning the official UPerNet on street scenes (CamVid), 480 x 360 pixels, 11 classes; index 11 is void:
# docs/finetuning.md.
_base_ = '../ade20k/upernet_internimage_t_512_160k_ade20k.py'

classes = ('Sky', 'Building', 'Pole', 'Road', 'Pavement', 'Tree', 'SignSymbol', 'Fence', 'Car', 'Pedestrian',
           'Bicyclist')  # sets every head and data set
data_root = 'data/camvid/'
load_from = ('https://huggingface.co/OpenGVLab/InternImage/resolve/main/'
             'upernet_internimage_t_512_160k_ade20k.pth')
void = len(classes)
crop_size = (352, 480)
image_scale = (480, 360)
max_iters = 2000
warmup_iters = 100

model = dict(
    data_preprocessor=dict(size=crop_size, seg_pad_val=void),
    decode_head=dict(ignore_index=void),
    auxiliary_head=dict(ignore_index=void))

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = image_scale
train_pipeline[3].crop_size = crop_size
train_pipeline[3].ignore_index = void
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale

dataset = dict(_delete_=True, type='BaseSegDataset', data_root=data_root, ignore_index=void)
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='train', seg_map_path='trainannot'), pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='val', seg_map_path='valannot'), pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ignore_index=void)
test_evaluator = val_evaluator

train_cfg = dict(max_iters=max_iters, val_interval=500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warmup_iters + 1),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=100, end=max_iters + 1),
]
