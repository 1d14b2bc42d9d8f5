# DINO with half the channels and layers, to be trained from scratch in minutes on a laptop, with the small InternImage.
# A config adds the backbone and the number of classes.
_base_ = './dino_4scale.py'

embed_dims = 128
ffn_cfg = dict(embed_dims=embed_dims, feedforward_channels=512)
attention = dict(embed_dims=embed_dims)
model = dict(
    num_queries=100,
    neck=dict(out_channels=embed_dims),
    encoder=dict(num_layers=3, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn_cfg)),
    decoder=dict(
        num_layers=3,
        layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn_cfg)),
    positional_encoding=dict(num_feats=embed_dims // 2),
    bbox_head=dict(embed_dims=embed_dims),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=50)))
