"""Learning rate and weight decay of every parameter of the detection configs, against the official rule's own output.

In tests/data/optimizer_groups.json.gz a backbone has the names of the full-size model, a head those of a small one.
"""

import re

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from official import ROOT, read_entries

import internimage.openmmlab  # noqa: F401  (registers)
from internimage.checkpoint import official_to_ours

GOLDEN = read_entries('optimizer_groups.json.gz')


def in_small_heads(name):
    """The name that a parameter of the full-size head has in a head of two layers in encoder and decoder."""
    name = re.sub(r'coder\.layers\.\d+', lambda m: f'{m[0][:13]}{min(int(m[0][13:]), 1)}', name)
    return re.sub(r'(cls|reg)_branches\.(\d+)', lambda m: f'{m[1]}_branches.{min(int(m[2]), 2)}', name)


def groups(cfg):
    """{parameter name: (parameter, learning rate, weight decay)}"""
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope('mmdet'), torch.device('meta'):
        model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (parameter, group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    assert found.keys() == set(names.values())
    return found


@pytest.mark.parametrize(
    'name',
    [
        'coco/mask_rcnn_internimage_t_fpn_1x_coco',
        'coco/cascade_internimage_l_fpn_3x_coco',
        'coco/dino_4scale_internimage_t_1x_coco_layer_wise_lr',
        'coco/dino_4scale_internimage_h_objects365_coco_ss',
    ],
)
def test_official_groups(name):
    golden = official_to_ours(GOLDEN[name])
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    found = groups(cfg)
    covered = set()
    for parameter_name, (parameter, lr, weight_decay) in found.items():
        small = in_small_heads(parameter_name)
        covered.add(small)
        if small in golden:
            assert [lr, weight_decay] == pytest.approx(golden[small], rel=1e-9), parameter_name
        elif re.search(r'blocks\.\d+\.gamma[12]$', small):  # the official models were built without them
            norm = golden[re.sub(r'gamma[12]$', 'norm1.0.weight', small)]
            assert [lr, weight_decay] == pytest.approx(norm, rel=1e-9), parameter_name
        else:
            # The small Cascade R-CNN is a Mask R-CNN: what its heads lack is in the layers that are trained as usual.
            assert name.startswith('coco/cascade') and parameter_name.startswith('roi_head.'), parameter_name
            wanted = 0.05 if parameter.dim() > 1 else 0.0
            assert (lr, weight_decay) == (cfg.optim_wrapper.optimizer.lr, wanted), parameter_name
    missing = {small for small in golden if small not in covered}
    assert not {small for small in missing if not small.startswith('roi_head.')}
    assert not missing or name.startswith('coco/cascade')


def test_the_composite_backbone_has_one_rate():
    """A quirk of the official rule: see CBInternImage.get_layer_depth."""
    found = groups(Config.fromfile(ROOT / 'configs/coco/dino_4scale_cbinternimage_h_objects365_coco_ss.py'))
    rates = {name: lr for name, (_, lr, _) in found.items() if name.startswith('backbone.')}
    assert len(rates) > 2000 and set(rates.values()) == {1e-4}
    assert found['backbone.cb_modules.1.gamma3'][2] == 0.0 and found['backbone.cb_linears.0.1.weight'][2] == 1e-4
    assert found['encoder.layers.3.self_attn.sampling_offsets.weight'][1:] == (pytest.approx(1e-7), 0.0)
    assert found['level_embed'][1] == pytest.approx(1e-4 * 0.94**51)


def test_one_tenth_of_the_rate_for_a_backbone():
    cfg = Config.fromfile(ROOT / 'configs/coco/dino_4scale_internimage_l_1x_coco_0.1x_backbone_lr.py')
    for name, (_, lr, weight_decay) in groups(cfg).items():
        assert (lr, weight_decay) == (pytest.approx(1e-5 if name.startswith('backbone.') else 1e-4), 0.05), name
