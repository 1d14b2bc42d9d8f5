"""The composite backbone and the detector on it. (The official detector's outputs: see the tests of checkpoints.)"""

import gzip
import json

import pytest
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import nn

import internimage.openmmlab  # noqa: F401  (registers)
from internimage import InternImage
from internimage.openmmlab.models import CBChannelMapper, CBInternImage
from internimage.openmmlab.models.dino import CheckpointedFFN

TINY = dict(channels=16, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8), mlp_ratio=1.0, drop_path_rate=0.0)
SIZE = (64, 96)


@pytest.fixture
def composite():
    torch.manual_seed(0)
    model = CBInternImage(**TINY, out_indices=((0, 1, 2, 3), (1, 2, 3)))
    model.init_weights()
    return model.eval()


@pytest.fixture
def image():
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def randomise(*tensors):
    with torch.no_grad():
        for tensor in tensors:
            nn.init.normal_(tensor, std=0.2)


class TestBackbone:
    def test_official_names_and_shapes(self, data):
        official = json.loads(gzip.decompress((data / 'cb_backbone_state_dict.json.gz').read_bytes()))
        model = CBInternImage(**official['config'])
        assert {name: list(value.shape) for name, value in model.state_dict().items()} == official['shapes']

    def test_starts_as_two_backbones_side_by_side(self, composite, image):
        plain = InternImage(**TINY).eval()
        for module, features in zip(composite.cb_modules, composite(image), strict=True):
            weights = {**composite.cb_modules[0].state_dict(), **module.state_dict()}  # one stem for both
            plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
            for got, expected in zip(features, plain(image)[1:], strict=True):
                torch.testing.assert_close(got, expected)

    def test_what_the_lead_is_given(self, composite, image):
        """Written out: stage i gets its own scale of the assistant's stages i, i + 1, ... in its size and channels."""
        lead = composite.cb_modules[1]
        randomise(*lead.gammas())
        maps = composite.cb_modules[0](image)
        given = composite.compose(maps)
        assert [tuple(x.shape) for x in given] == [(2, 16, 24, 16), (2, 8, 12, 32), (2, 4, 6, 64), (2, 2, 3, 128)]
        torch.testing.assert_close(given[3], (lead.gamma3[:, None, None] * maps[3]).permute(0, 2, 3, 1))
        from_above = composite.cb_linears[2][1](maps[3]).repeat_interleave(2, -1).repeat_interleave(2, -2)
        torch.testing.assert_close(given[2], (lead.gamma2[:, None, None] * (maps[2] + from_above)).permute(0, 2, 3, 1))
        before = [x.clone() for x in composite(image)[1]]
        with torch.no_grad():
            lead.gamma3.add_(1)  # the last stage alone changes
        after = composite(image)[1]
        assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False]

    def test_any_size_of_image(self, composite):
        assert [tuple(x.shape[-2:]) for x in composite(torch.zeros(1, 3, 70, 90))[1]] == [(9, 12), (5, 6), (3, 3)]

    def test_checkpointing_changes_nothing(self, composite, image):
        randomise(*composite.cb_modules[1].gammas())
        checkpointed = CBInternImage(**TINY, out_indices=((0, 1, 2, 3), (1, 2, 3)), with_cp=True).eval()
        checkpointed.load_state_dict(composite.state_dict())
        gradients = []
        for model in (composite, checkpointed):
            sum(x.square().mean() for features in model(image) for x in features).backward()
            gradients.append({name: p.grad for name, p in model.named_parameters()})
        for name, grad in gradients[0].items():
            assert torch.allclose(grad, gradients[1][name], atol=1e-6), name

    def test_every_parameter_is_trained_at_the_full_rate(self, composite):
        """As the official rule has it, see CBInternImage.get_layer_depth."""
        for name, _ in composite.named_parameters():
            assert composite.get_layer_depth(f'backbone.{name}') == (6, 7)

    def test_pretrained_backbone_for_both(self, tmp_path):
        single = InternImage(**TINY)
        for parameter in single.parameters():
            nn.init.normal_(parameter)
        torch.save({'model': single.state_dict()}, tmp_path / 'imagenet.pth')
        model = CBInternImage(**TINY, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'imagenet.pth')))
        model.init_weights()
        assistant, lead = (module.state_dict() for module in model.cb_modules)
        assert all(torch.equal(value, assistant[name]) for name, value in single.state_dict().items())
        assert all(torch.equal(value, assistant[name]) for name, value in lead.items() if not name.startswith('gamma'))
        assert lead['gamma2'].count_nonzero() == 0

    def test_frozen_stages(self):
        model = CBInternImage(**TINY, frozen_stages=1)
        frozen = {name.split('.blocks')[0] for name, p in model.named_parameters() if not p.requires_grad}
        assert all('levels.0' in name or 'patch_embed' in name for name in frozen)
        assert {'cb_modules.0.levels.0', 'cb_modules.1.levels.0'} <= frozen

    @pytest.mark.parametrize(
        'options, error, message',
        [
            (dict(out_indices=(0, 1, 2, 3)), ValueError, r'must be a pair of lists of stages, got \(0, 1, 2, 3\)'),
            (
                dict(out_indices=((1, 2, 3), (1, 2, 3))),
                ValueError,
                r'must be all stages, \[0, 1, 2, 3\], got \(1, 2, 3\)',
            ),
            (dict(cb_del_stages=1), TypeError, 'cb_del_stages'),
            (dict(init_cfg=dict(type='Xavier')), ValueError, "None or of type 'Pretrained'"),
        ],
    )
    def test_errors(self, options, error, message):
        with pytest.raises(error, match=message):
            CBInternImage(**{**TINY, **options}).init_weights()


def detector(kind='CBDINO', **options):
    """A small DINO, composite or not, with the same weights outside the backbone."""
    attention = dict(embed_dims=32, num_levels=4, dropout=0.0)
    ffn = dict(embed_dims=32, feedforward_channels=32, ffn_drop=0.0)
    prefix = 'CB' if kind == 'CBDINO' else ''
    cfg = ConfigDict(
        type=kind,
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
        backbone=dict(
            type=prefix + 'InternImage',
            out_indices=((0, 1, 2, 3), (1, 2, 3)) if prefix else (1, 2, 3),
            **TINY,
        ),
        neck=dict(
            type=prefix + 'ChannelMapper',
            in_channels=[32, 64, 128],
            kernel_size=1,
            out_channels=32,
            act_cfg=None,
            norm_cfg=dict(type='GN', num_groups=4),
            num_outs=4,
        ),
        num_queries=12,
        with_box_refine=True,
        as_two_stage=True,
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
        decoder=dict(
            num_layers=2,
            return_intermediate=True,
            layer_cfg=dict(
                self_attn_cfg=dict(embed_dims=32, num_heads=4, dropout=0.0), cross_attn_cfg=attention, ffn_cfg=ffn
            ),
            post_norm_cfg=None,
        ),
        positional_encoding=dict(num_feats=16, normalize=True, temperature=20),
        bbox_head=dict(
            type=prefix + 'DINOHead',
            num_classes=3,
            embed_dims=32,
            sync_cls_avg_factor=True,
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        ),
        dn_cfg=dict(group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=8)),
        train_cfg=dict(
            assigner=dict(
                type='HungarianAssigner',
                match_costs=[
                    dict(type='FocalLossCost', weight=2.0),
                    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                    dict(type='IoUCost', iou_mode='giou', weight=2.0),
                ],
            )
        ),
        test_cfg=dict(max_per_img=5),
        **options,
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg)
        model.init_weights()
    return model


def samples():
    found = []
    for box in ([8.0, 10.0, 40.0, 50.0], [30.0, 5.0, 90.0, 60.0]):
        sample = DetDataSample(
            metainfo=dict(img_shape=SIZE, ori_shape=SIZE, batch_input_shape=SIZE, pad_shape=SIZE, scale_factor=(1, 1))
        )
        sample.gt_instances = InstanceData(bboxes=torch.tensor([box]), labels=torch.tensor([1]))
        found.append(sample)
    return found


class TestDetector:
    def test_losses_of_both_halves(self, image):
        """The assisting backbone's losses are those of a DINO that sees its features, at half the weight."""
        model = detector().train()
        lead_only = detector('OfficialDINO').train()
        weights = model.state_dict()
        for name in lead_only.state_dict():
            part = name.removeprefix('backbone.')
            if part != name:
                weights[name] = weights[f'backbone.cb_modules.0.{part}']
        missing, _ = lead_only.load_state_dict(weights, strict=False)
        assert not missing
        losses, expected = model.loss(image, samples()), lead_only.loss(image, samples())
        assert losses.keys() == {*expected, *(f'cb0.{name}' for name in expected)}
        noisy = {name for name in expected if 'dn_' in name}  # drawn at random
        for name in expected.keys() - noisy:
            torch.testing.assert_close(losses[f'cb0.{name}'], 0.5 * expected[name])
            assert name == 'loss_iou' or not torch.equal(losses[name], losses[f'cb0.{name}'] * 2)
        assert all(losses[f'cb0.{name}'].isfinite() for name in noisy)

    def test_every_parameter_learns(self, image):
        model = detector().train()
        randomise(*model.backbone.cb_modules[1].gammas())
        sum(model.loss(image, samples()).values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    def test_predicts_from_the_lead_alone(self, image):
        model = detector().eval()
        assistant, lead = (module.levels[3].norm[0].weight for module in model.backbone.cb_modules)

        def scores():
            with torch.no_grad():
                return model.predict(image, samples())[0].pred_instances.scores

        before = scores()
        randomise(assistant)  # the lead's gammas are zero: it does not see this
        assert torch.equal(before, scores())
        randomise(lead)
        assert not torch.equal(before, scores())

    def test_neck_maps_both_in_training(self):
        neck = CBChannelMapper(in_channels=[4, 8], out_channels=6, kernel_size=1)
        pair = tuple(tuple(torch.randn(1, c, 8 // c, 8) for c in (4, 8)) for _ in range(2))
        both, lead = neck.train()(pair), neck.eval()(pair)
        assert len(both) == 2 and all(torch.equal(a, b) for a, b in zip(both[1], lead, strict=True))
        torch.testing.assert_close(both[0][0], F.relu(neck.convs[0].conv(pair[0][0])))

    def test_weight_of_the_first_half(self, image):
        model = detector().train()
        model.bbox_head.cb_first_weight = 0.0
        losses = model.loss(image, samples())
        assert {value.item() for name, value in losses.items() if name.startswith('cb0.')} == {0.0}

    def test_checkpointing_of_the_feed_forward_networks_changes_nothing(self, image):
        plain, checkpointed = (detector('OfficialDINO', ffn_with_cp=value).train() for value in (False, True))
        checkpointed.load_state_dict(plain.state_dict())
        gradients = []
        for model in (plain, checkpointed):
            torch.manual_seed(2)  # the noise of the denoising queries
            sum(model.loss(image, samples()).values()).backward()
            gradients.append({name: p.grad for name, p in model.named_parameters()})
        assert gradients[0].keys() == gradients[1].keys()
        for name, grad in gradients[0].items():
            torch.testing.assert_close(grad, gradients[1][name])
        for layer in (*checkpointed.encoder.layers, *checkpointed.decoder.layers):
            assert isinstance(layer.ffn, CheckpointedFFN)
