# The frame of every segmentor. A config gives it a backbone and the padding size of the training crops
# (`data_preprocessor.size`), which is its data set's crop_size.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],  # ImageNet, RGB
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
