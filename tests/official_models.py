"""The models of the official fixtures in our dialect: mmdet 3 and mmseg 1, built from their old configs.

What the old dialect has and the new one lacks is popped by name, so that anything unknown shows.
"""

import copy

from mmengine.config import ConfigDict

MATCH_COSTS = dict(cls_cost='FocalLossCost', reg_cost='BBoxL1Cost', iou_cost='IoUCost')


def in_our_dialect(old: dict) -> dict:
    """The `model` of a config of ours for the `model` of an official config."""
    old = copy.deepcopy(old)
    old.pop('pretrained', None)
    old['backbone'].pop('pretrained', None)
    old['backbone']['core_op'] = 'DCNv3'  # the fixtures name its form in PyTorch
    return ConfigDict(TRANSLATE[old['type']](old))


def mask_rcnn(old: dict) -> dict:
    old['roi_head'] = {key: old['roi_head'][key] for key in old['roi_head'] if not key.endswith('_cfg')}
    old['roi_head'].pop('pretrained')
    return dict(old, data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32))


def dino(old: dict) -> dict:
    head, transformer = old['bbox_head'], old['bbox_head'].pop('transformer')
    head.pop('in_channels')
    queries, denoising = head.pop('num_query'), head.pop('dn_cfg')
    embed_dims = denoising['hidden_dim']
    encoder, decoder = (transformer[part]['transformerlayers'] for part in ('encoder', 'decoder'))
    self_attn, cross_attn = decoder['attn_cfgs']
    layer = lambda **attention: dict(layer_cfg=attention)  # noqa: E731
    without_type = lambda cfg: {key: value for key, value in cfg.items() if key != 'type'}  # noqa: E731
    neck = old['neck'][0] if isinstance(old['neck'], list) else old['neck']
    return dict(
        type='OfficialDINO' if old['type'] == 'DINO' else old['type'],
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
        backbone=old['backbone'],
        neck=neck,
        num_queries=queries,
        as_two_stage=head.pop('as_two_stage'),
        with_box_refine=head.pop('with_box_refine'),
        num_feature_levels=4,
        encoder=dict(
            num_layers=transformer['encoder']['num_layers'],
            **layer(self_attn_cfg=without_type(encoder['attn_cfgs']), ffn_cfg=without_type(encoder['ffn_cfgs'])),
        ),
        decoder=dict(
            num_layers=transformer['decoder']['num_layers'],
            return_intermediate=True,
            post_norm_cfg=None,
            **layer(
                self_attn_cfg=without_type(self_attn),
                cross_attn_cfg=without_type(cross_attn),
                ffn_cfg=without_type(decoder['ffn_cfgs']),
            ),
        ),
        positional_encoding=without_type(head.pop('positional_encoding')),
        bbox_head=dict(embed_dims=embed_dims, **{key: head[key] for key in head if not key.endswith('_cfg')}),
        dn_cfg=dict(
            label_noise_scale=denoising['noise_scale']['label'],
            box_noise_scale=denoising['noise_scale']['box'],
            group_cfg=denoising['group_cfg'],
        ),
        train_cfg=dict(old['train_cfg'], assigner=_hungarian(old['train_cfg']['assigner'])),
        test_cfg=old['test_cfg'],
    )


def upernet(old: dict) -> dict:
    return dict(old, data_preprocessor=dict(type='SegDataPreProcessor'))


def mask2former(old: dict) -> dict:
    head = old['decode_head']
    for key in ('in_index', 'num_things_classes', 'num_stuff_classes', 'test_cfg'):
        head.pop(key)
    pixel, transformer = head['pixel_decoder'], head['transformer_decoder']
    encoder_layer = pixel['encoder'].pop('transformerlayers')
    self_attn, ffn = dict(encoder_layer['attn_cfgs'], batch_first=True), encoder_layer['ffn_cfgs']
    self_attn.pop('type'), ffn.pop('type'), ffn.pop('with_cp')
    pixel['encoder'] = dict(
        num_layers=pixel['encoder']['num_layers'], layer_cfg=dict(self_attn_cfg=self_attn, ffn_cfg=ffn)
    )
    pixel['positional_encoding'].pop('type'), head['positional_encoding'].pop('type')
    decoder_layer = transformer.pop('transformerlayers')
    attn, ffn = dict(decoder_layer['attn_cfgs'], batch_first=True), decoder_layer['ffn_cfgs']
    attn.pop('type'), ffn.pop('with_cp'), transformer.pop('type')
    transformer['layer_cfg'] = dict(self_attn_cfg=attn, cross_attn_cfg=attn, ffn_cfg=ffn)
    head['strides'] = [4, 8, 16, 32]
    head['type'] = 'OfficialMask2FormerHead'
    for part in ('pixel_decoder', 'loss_cls', 'loss_mask', 'loss_dice'):
        head[part]['type'] = 'mmdet.' + head[part]['type']
    train = head['train_cfg']
    costs = train['assigner']
    costs['cls_cost']['type'], costs['mask_cost']['type'] = 'mmdet.ClassificationCost', 'mmdet.CrossEntropyLossCost'
    costs['dice_cost']['type'] = 'mmdet.DiceCost'
    train['assigner'] = dict(
        type='mmdet.HungarianAssigner', match_costs=[costs[key] for key in ('cls_cost', 'mask_cost', 'dice_cost')]
    )
    train['sampler'] = dict(type='mmdet.MaskPseudoSampler')
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor'),
        backbone=old['backbone'],
        decode_head=head,
        train_cfg=dict(),
        test_cfg=old['test_cfg'],
    )


def _hungarian(old: dict) -> dict:
    return dict(type='HungarianAssigner', match_costs=[old[key] for key in MATCH_COSTS])


TRANSLATE = {
    'MaskRCNN': mask_rcnn,
    'DINO': dino,
    'CBDINO': dino,
    'EncoderDecoder': upernet,
    'EncoderDecoderMask2Former': mask2former,
}
