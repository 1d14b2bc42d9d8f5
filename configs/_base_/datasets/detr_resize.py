# The resizing of DETR, for data sets to take: the image as a whole, or a part of it, at one of eleven sizes.
resize = dict(
    type='RandomChoiceResize', scales=[(side, 1333) for side in range(480, 801, 32)], keep_ratio=True)
random_resize = dict(
    type='RandomChoice',
    transforms=[
        [resize],
        [
            dict(type='RandomChoiceResize', scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
            dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
            resize,
        ],
    ])
