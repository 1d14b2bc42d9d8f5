import gzip
import json

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import internimage.openmmlab  # noqa: F401  (registers)
from internimage import InternImage, build_variant
from ops_dcnv3 import DeformPSRoIPoolPack, ModulatedDeformRoIPoolPack

TINY = dict(channels=16, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8))


class Model(nn.Module):
    """A backbone and a head of parameters with given names."""

    def __init__(self, backbone, **head):
        super().__init__()
        self.backbone = backbone
        for name, module in head.items():
            setattr(self, name, module)


def settings(model, lr=1.0, weight_decay=0.05, **paramwise_cfg):
    """{parameter name: [learning rate, weight decay]}."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay),
            constructor='CustomLayerDecayOptimizerConstructor',
            paramwise_cfg=paramwise_cfg or None,
        ),
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: [group['lr'], group['weight_decay']]
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }


@pytest.mark.parametrize('variant', ['t', 'l', 'xl', 'h'])
def test_official_groups_of_the_backbone(variant, data):
    """Every parameter of the full-size backbones, from the official rule's own output."""
    golden = json.loads(gzip.decompress((data / 'optimizer_groups.json.gz').read_bytes()))
    rates = {  # of the official configs
        't': ('coco/dino_4scale_internimage_t_1x_coco_layer_wise_lr', 1e-4, 1e-4, 0.9),
        'l': ('coco/cascade_internimage_l_fpn_3x_coco', 2e-4, 0.05, 0.9),
        'xl': ('ade20k/upernet_internimage_xl_640_160k_ade20k', 2e-5, 0.05, 0.94),
        'h': ('ade20k/upernet_internimage_h_896_160k_ade20k', 2e-5, 0.05, 0.95),
    }
    config, lr, weight_decay, decay_rate = rates[variant]
    expected = {name: value for name, value in golden[config].items() if name.startswith('backbone.')}
    options = dict(layer_scale=1.0) if any('gamma' in name for name in expected) else {}
    with torch.device('meta'):
        model = Model(build_variant(variant, **options))
    found = settings(model, lr, weight_decay, layer_decay_rate=decay_rate)
    expected = {name: value for name, value in expected.items() if name in found}
    assert found.keys() == expected.keys() and len(found) > 300
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize(
    'path, golden_name',
    [
        ('coco/mask_rcnn_internimage_t_fpn_1x_coco', 'coco/mask_rcnn_internimage_t_fpn_1x_coco'),
        ('ade20k/upernet_internimage_t_512_160k_ade20k', 'ade20k/upernet_internimage_t_512_160k_ade20k'),
    ],
)
def test_official_groups_of_a_config(path, golden_name, data, request):
    golden = json.loads(gzip.decompress((data / 'optimizer_groups.json.gz').read_bytes()))[golden_name]
    cfg = Config.fromfile(request.config.rootpath / 'configs' / f'{path}.py')
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = MODELS.build(cfg.model)
    optimizer = cfg.optim_wrapper.optimizer
    found = settings(model, optimizer.lr, optimizer.weight_decay, **cfg.optim_wrapper.paramwise_cfg)
    common = found.keys() & golden.keys()
    assert len(common) > 600 and not {name for name in golden if name.startswith('backbone.')} - common
    for name in common:
        assert found[name] == pytest.approx(golden[name], rel=1e-9), name


def test_heads_and_quirks():
    model = Model(
        InternImage(**TINY),
        neck=nn.Linear(2, 2),
        level_embed=nn.Embedding(2, 2),
        bbox_head=nn.ModuleDict({'sampling_offsets': nn.Linear(2, 2), 'norm': nn.Linear(2, 2)}),
    )
    found = settings(model, layer_decay_rate=0.5, offset_lr_scale=0.01)
    layers_above_the_stem = sum(TINY['depths']) + 1
    assert found['backbone.patch_embed.conv1.weight'] == [0.5**layers_above_the_stem, 0.05]
    assert found['neck.weight'] == [1.0, 0.05] and found['neck.bias'] == [1.0, 0.0]
    assert found['level_embed.weight'] == [0.5**layers_above_the_stem, 0.05]
    assert found['bbox_head.sampling_offsets.weight'] == [0.01, 0.0]
    assert found['bbox_head.norm.weight'] == [1.0, 0.0]


def test_offset_layers_of_roi_pools():
    pools = nn.ModuleDict(
        {
            'box': ModulatedDeformRoIPoolPack(2, 4, deform_fc_channels=8),
            'score': DeformPSRoIPoolPack(2, 4),
            'other': nn.Linear(2, 2),
        }
    )
    found = settings(Model(InternImage(**TINY), roi_head=pools), layer_decay_rate=0.9, roi_offset_lr_scale=0.1)
    rates = {name: lr for name, (lr, _) in found.items() if name.startswith('roi_head')}
    slow = {name for name, lr in rates.items() if lr == pytest.approx(0.1)}
    assert slow == {name for name in rates if '.other.' not in name}
    assert len(slow) == 6 + 4 + 2 and {rates[name] for name in rates.keys() - slow} == {1.0}
    assert found['roi_head.score.offset_conv.bias'] == [pytest.approx(0.1), 0.0]


def test_without_options_the_rate_is_one_and_norms_do_not_decay():
    found = settings(Model(InternImage(**TINY)))
    assert {lr for lr, _ in found.values()} == {1.0}
    assert found['backbone.levels.0.norm.0.weight'] == [1.0, 0.0]


def test_frozen_parameters_are_left_out():
    found = settings(Model(InternImage(**TINY, frozen_stages=1)), layer_decay_rate=0.9)
    assert not any(name.startswith(('backbone.patch_embed', 'backbone.levels.0')) for name in found)


@pytest.mark.parametrize(
    'model, options, message',
    [
        (
            Model(InternImage(**TINY)),
            dict(layer_decay=0.9),
            "takes layer_decay_rate, offset_lr_scale and roi_offset_lr_scale, got 'layer_decay'",
        ),
        (Model(InternImage(**TINY)), dict(num_layers=30), 'num_layers must be 5 as in the model, or left out, got 30'),
        (Model(InternImage(**TINY)), dict(depths=[4, 4]), r'depths must be \[1, 1, 2, 1\]'),
        (Model(nn.Linear(1, 1)), dict(layer_decay_rate=0.9), 'must have get_layer_depth.* got Linear'),
    ],
)
def test_errors(model, options, message):
    with pytest.raises(ValueError, match=message):
        settings(model, **options)
