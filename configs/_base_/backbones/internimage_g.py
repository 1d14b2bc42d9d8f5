# InternImage-G, 3 billion parameters.
# A config uses `backbone` in its model, and `in_channels` (of the four stages) in the neck or head on top of it.
backbone = dict(
    type='InternImage',
    core_op='DCNv3',
    channels=512,
    depths=[2, 2, 48, 4],
    groups=[16, 32, 64, 128],
    mlp_ratio=4.0,
    drop_path_rate=0.5,
    norm_layer='LN',
    layer_scale=None,
    offset_scale=1.0,
    post_norm=True,
    dw_kernel_size=5,
    res_post_norm=False,
    level2_post_norm=True,
    level2_post_norm_block_ids=[5, 11, 17, 23, 29, 35, 41, 47],
    center_feature_scale=True,
    with_cp=True,
    out_indices=(0, 1, 2, 3),
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://huggingface.co/OpenGVLab/InternImage/resolve/main/internimage_g_pretrainto22k_384.pth'))
in_channels = [512, 1024, 2048, 4096]
