# Mask2Former as wide as its data sets of 150 classes and more get it.
_base_ = './mask2former.py'

width = 1024
num_heads = 32

attention = dict(embed_dims=width, num_heads=num_heads)
ffn = dict(embed_dims=width, feedforward_channels=4 * width)
position = dict(num_feats=width // 2)

model = dict(
    decode_head=dict(
        feat_channels=width,
        out_channels=width,
        num_queries=200,
        pixel_decoder=dict(
            encoder=dict(layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)), positional_encoding=position),
        positional_encoding=position,
        transformer_decoder=dict(
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn))))
