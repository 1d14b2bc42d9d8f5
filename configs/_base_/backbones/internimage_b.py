# InternImage-B, 97 M parameters.
# A config uses `backbone` in its model, and `in_channels` (of the four stages) in the neck or head on top of it.
backbone = dict(
    type='InternImage',
    core_op='DCNv3',
    channels=112,
    depths=[4, 4, 21, 4],
    groups=[7, 14, 28, 56],
    mlp_ratio=4.0,
    drop_path_rate=0.4,
    norm_layer='LN',
    layer_scale=1.0,
    offset_scale=1.0,
    post_norm=True,
    with_cp=False,
    out_indices=(0, 1, 2, 3),
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://huggingface.co/OpenGVLab/InternImage/resolve/main/internimage_b_1k_224.pth'))
in_channels = [112, 224, 448, 896]
