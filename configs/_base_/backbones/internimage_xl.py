# InternImage-XL, 335 M parameters.
# A config uses `backbone` in its model, and `in_channels` (of the four stages) in the neck or head on top of it.
backbone = dict(
    type='InternImage',
    core_op='DCNv3',
    channels=192,
    depths=[5, 5, 24, 5],
    groups=[12, 24, 48, 96],
    mlp_ratio=4.0,
    drop_path_rate=0.4,
    norm_layer='LN',
    layer_scale=1.0,
    offset_scale=2.0,
    post_norm=True,
    with_cp=False,
    out_indices=(0, 1, 2, 3),
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://huggingface.co/OpenGVLab/InternImage/resolve/main/internimage_xl_22k_192to384.pth'))
in_channels = [192, 384, 768, 1536]
