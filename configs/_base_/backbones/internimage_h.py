# InternImage-H, 1.08 billion parameters.
# A config uses `backbone` in its model, and `in_channels` (of the four stages) in the neck or head on top of it.
backbone = dict(
    type='InternImage',
    core_op='DCNv3',
    channels=320,
    depths=[6, 6, 32, 6],
    groups=[10, 20, 40, 80],
    mlp_ratio=4.0,
    drop_path_rate=0.5,
    norm_layer='LN',
    layer_scale=None,
    offset_scale=1.0,
    post_norm=False,
    dw_kernel_size=5,
    res_post_norm=True,
    level2_post_norm=True,
    level2_post_norm_block_ids=[5, 11, 17, 23, 29],
    center_feature_scale=True,
    with_cp=False,
    out_indices=(0, 1, 2, 3),
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://huggingface.co/OpenGVLab/InternImage/resolve/main/internimage_h_jointto22k_384.pth'))
in_channels = [320, 640, 1280, 2560]
