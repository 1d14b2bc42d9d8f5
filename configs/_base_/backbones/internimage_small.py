# The small variant, 1.3 M parameters, to be trained from scratch in minutes on a laptop.
# A config uses `backbone` in its model, and `in_channels` (of the four stages) in the neck or head on top of it.
backbone = dict(
    type='InternImage',
    core_op='DCNv3',
    channels=32,
    depths=[1, 1, 3, 1],
    groups=[2, 4, 8, 16],
    mlp_ratio=2.0,
    drop_path_rate=0.0,
    norm_layer='LN',
    layer_scale=None,
    offset_scale=1.0,
    post_norm=False,
    with_cp=False,
    out_indices=(0, 1, 2, 3),
    init_cfg=None)
in_channels = [32, 64, 128, 256]
