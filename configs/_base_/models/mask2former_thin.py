# Mask2Former with a thin head, to be trained from scratch in minutes on a laptop. The auxiliary FCN head teaches the
# backbone from the first step on, while the queries still look for their masks.
_base_ = './mask2former.py'

width = 64
num_heads = 4

attention = dict(embed_dims=width, num_heads=num_heads)
ffn = dict(embed_dims=width, feedforward_channels=4 * width)
position = dict(num_feats=width // 2)

model = dict(
    decode_head=dict(
        feat_channels=width,
        out_channels=width,
        num_queries=20,
        pixel_decoder=dict(
            norm_cfg=dict(num_groups=8),
            encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
            positional_encoding=position),
        positional_encoding=position,
        transformer_decoder=dict(
            num_layers=3, layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn)),
        train_cfg=dict(num_points=1024)),
    auxiliary_head=dict(
        type='FCNHead',
        in_index=2,
        channels=32,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)))
