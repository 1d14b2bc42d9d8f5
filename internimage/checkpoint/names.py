"""The names of weights: official (OpenMMLab 2.x / 0.x, Hugging Face) and ours (mmdet 3, mmseg 1).

Backbones, necks, R-CNN heads, UPerNet and the SegFormer head have the same names in both. OpenMMLab moved the parts of
DINO, whose transformer left the head, and the layers of Mask2Former.
"""

import re
from collections.abc import Mapping

from torch import Tensor

# One line per part: (official, ours). `#` is a number, the same on both sides.
DINO = [
    ('bbox_head.transformer.encoder.layers.#.attentions.0.', 'encoder.layers.#.self_attn.'),
    ('bbox_head.transformer.encoder.layers.#.ffns.0.', 'encoder.layers.#.ffn.'),
    ('bbox_head.transformer.encoder.layers.#.norms.', 'encoder.layers.#.norms.'),
    ('bbox_head.transformer.decoder.layers.#.attentions.0.', 'decoder.layers.#.self_attn.'),
    ('bbox_head.transformer.decoder.layers.#.attentions.1.', 'decoder.layers.#.cross_attn.'),
    ('bbox_head.transformer.decoder.layers.#.ffns.0.', 'decoder.layers.#.ffn.'),
    ('bbox_head.transformer.decoder.layers.#.norms.', 'decoder.layers.#.norms.'),
    ('bbox_head.transformer.decoder.ref_point_head.0.', 'decoder.ref_point_head.layers.0.'),
    ('bbox_head.transformer.decoder.ref_point_head.2.', 'decoder.ref_point_head.layers.1.'),
    ('bbox_head.transformer.decoder.norm.', 'decoder.norm.'),
    ('bbox_head.transformer.level_embeds', 'level_embed'),
    ('bbox_head.transformer.enc_output.', 'memory_trans_fc.'),
    ('bbox_head.transformer.enc_output_norm.', 'memory_trans_norm.'),
    ('bbox_head.transformer.query_embed.', 'query_embedding.'),
    ('bbox_head.label_embedding.', 'dn_query_generator.label_embedding.'),
]
MASK2FORMER = [
    (
        'decode_head.pixel_decoder.encoder.layers.#.attentions.0.',
        'decode_head.pixel_decoder.encoder.layers.#.self_attn.',
    ),
    ('decode_head.pixel_decoder.encoder.layers.#.ffns.0.', 'decode_head.pixel_decoder.encoder.layers.#.ffn.'),
    ('decode_head.transformer_decoder.layers.#.attentions.0.', 'decode_head.transformer_decoder.layers.#.cross_attn.'),
    ('decode_head.transformer_decoder.layers.#.attentions.1.', 'decode_head.transformer_decoder.layers.#.self_attn.'),
    ('decode_head.transformer_decoder.layers.#.ffns.0.', 'decode_head.transformer_decoder.layers.#.ffn.'),
]
COMPOSITE_DINO = [('neck.0.', 'neck.')]
COMPOSITE = 'backbone.cb_linears.0.1.weight'
# Which tables hold for a checkpoint: those of whose names, official or ours, it has all. Other heads are left alone.
MODELS = [
    ({'bbox_head.label_embedding.weight'}, {'dn_query_generator.label_embedding.weight'}, DINO),
    ({COMPOSITE, 'neck.0.convs.0.conv.weight'}, {COMPOSITE, 'neck.convs.0.conv.weight'}, COMPOSITE_DINO),
    (
        {'decode_head.transformer_decoder.layers.0.ffns.0.layers.1.weight'},
        {'decode_head.transformer_decoder.layers.0.ffn.layers.1.weight'},
        MASK2FORMER,
    ),
]


def official_to_ours(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state_dict` with the names that its values have in a model of ours; what has our names already keeps them.

    Takes the names of the official checkpoints (OpenMMLab 2.x / 0.x) and of the official Hugging Face folders (which
    say `layer_scale1` for `gamma1`).
    """
    tables = [table for official, _, table in MODELS if official <= state_dict.keys()]
    rules = [_rule(official, ours) for table in tables for official, ours in table]
    rules.append((re.compile(r'(.*\.blocks\.\d+\.)layer_scale([12])'), r'\1gamma\2'))
    return _renamed(state_dict, rules)


def ours_to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `official_to_ours`: names as in the official detection and segmentation code."""
    tables = [table for _, ours, table in MODELS if ours <= state_dict.keys()]
    return _renamed(state_dict, [_rule(ours, official) for table in tables for official, ours in table])


def _rule(old: str, new: str) -> tuple[re.Pattern, str]:
    return re.compile(re.escape(old).replace(re.escape('#'), r'(\d+)')), new.replace('#', r'\1')


def _renamed(state_dict: Mapping[str, Tensor], rules: list[tuple[re.Pattern, str]]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state_dict.items():
        for pattern, new in rules:
            match = pattern.match(name)
            if match:
                name = match.expand(new) + name[match.end() :]
                break
        renamed[name] = value
    return renamed
