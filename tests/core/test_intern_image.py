import gzip
import json
import logging

import mmdet.registry
import mmseg.registry
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from internimage import VARIANTS, InternImage, build_variant
from internimage.checkpoint import CheckpointError, backbone_weights
from ops_dcnv3 import DCNv3

TINY = dict(channels=16, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8))
EVERYTHING = dict(
    TINY,
    dw_kernel_size=5,
    res_post_norm=True,
    level2_post_norm=True,
    level2_post_norm_block_ids=(0, 1),
    center_feature_scale=True,
    layer_scale=0.5,
    drop_path_rate=0.3,
    drop_rate=0.1,
    offset_scale=2.0,
)


def official(data, name):
    return json.loads(gzip.decompress((data / 'internimage_state_dicts.json.gz').read_bytes()))[name]


@pytest.mark.parametrize('name', ['t', 's', 'b', 'l', 'xl', 'h', 'g'])
class TestOfficialModels:
    def test_variant_is_the_official_one(self, name, data):
        config = official(data, name)['config']
        config.pop('use_clip_projector', None)  # of the classification head
        assert {k: list(v) if isinstance(v, tuple) else v for k, v in VARIANTS[name].items()} == {
            key: value
            for key, value in config.items()
            if key in VARIANTS[name] or value not in (None, False, 1.0)  # the defaults are not restated
        }

    def test_names_and_shapes(self, name, data):
        golden = official(data, name)
        with torch.device('meta'):
            model = build_variant(name)
        own = {key: list(value.shape) for key, value in model.state_dict().items()}
        assert own == {k: v for k, v in golden['state_dict'].items() if k.startswith(('patch_embed.', 'levels.'))}
        assert sum(p.numel() for p in model.parameters()) == golden['num_backbone_parameters']


@pytest.mark.parametrize('name', ['tiny_like', 'huge_like'])
def test_golden_features(name, official_file):
    safetensors = pytest.importorskip('safetensors.torch')
    config = json.loads(official_file('internimage_backbones.json').read_text())[name]
    config.pop('num_parameters')
    model = InternImage(**config).eval()
    model.load_state_dict(safetensors.load_file(official_file(f'internimage_{name}.weights.safetensors')))
    with np.load(official_file(f'internimage_{name}.io.npz')) as arrays, torch.no_grad():
        features = model(torch.from_numpy(arrays['image']))
        for i, feature in enumerate(features):
            assert np.abs(feature.numpy() - arrays[f'stage{i}']).max() <= 1e-4


class TestOptions:
    @pytest.mark.parametrize('options', [TINY, EVERYTHING, dict(TINY, post_norm=True), dict(TINY, norm_layer='BN')])
    def test_forward_and_backward(self, options):
        model = InternImage(**options)
        features = model(torch.randn(2, 3, 70, 90))
        assert [tuple(f.shape) for f in features] == [(2, 16, 18, 23), (2, 32, 9, 12), (2, 64, 5, 6), (2, 128, 3, 3)]
        assert all(f.is_contiguous() for f in features)
        sum(f.square().mean() for f in features).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    @pytest.mark.parametrize('training', [False, True])
    @pytest.mark.parametrize('options', [TINY, EVERYTHING, dict(TINY, layer_scale=1.0, post_norm=True)])
    def test_flops_are_counted_with_and_without_gradients(self, options, training):
        model, counts = InternImage(**options).train(training), []
        for context in (torch.enable_grad, torch.no_grad):
            with FlopCounterMode(display=False) as counter, context():
                model(torch.randn(2, 3, 64, 96))
            counts.append(counter.get_total_flops())
        assert counts[0] == counts[1] > 0

    def test_checkpointing_changes_nothing(self):
        plain, checkpointed = InternImage(**TINY), InternImage(**TINY, with_cp=True)
        checkpointed.load_state_dict(plain.state_dict())
        plain.train(), checkpointed.train()
        gradients = []
        for model in (plain.eval(), checkpointed.eval()):  # no drop path: the two runs must agree
            sum(f.square().mean() for f in model(torch.ones(1, 3, 64, 64))).backward()
            gradients.append([p.grad for p in model.parameters()])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)

    def test_res_post_norm_holds_with_layer_scale(self):
        """The official code drops one of the two."""
        torch.manual_seed(0)
        model = InternImage(**dict(TINY, res_post_norm=True, layer_scale=0.5)).eval()
        image = torch.randn(1, 3, 64, 64)
        before = model(image)[-1]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if 'res_post_norm' in name:
                    parameter.mul_(2)
        assert not torch.allclose(before, model(image)[-1])

    def test_out_indices(self):
        image = torch.randn(1, 3, 64, 64)
        model = InternImage(**TINY, out_indices=(1, 3)).eval()
        everything = InternImage(**TINY).eval()
        everything.load_state_dict(model.state_dict())
        for a, b in zip(model(image), [everything(image)[i] for i in (1, 3)], strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize('stages, trained', [(-1, 'patch_embed'), (0, 'levels.0'), (2, 'levels.2'), (4, None)])
    def test_frozen_stages(self, stages, trained):
        model = InternImage(**dict(TINY, drop_path_rate=0.5), frozen_stages=stages).train()
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert (names[0].startswith(trained)) if trained else not names
        assert all(not level.training for level in model.levels[: max(stages, 0)])

    def test_drop_path_rises_to_its_rate(self):
        rates = [
            getattr(block.drop_path, 'drop_prob', 0.0)
            for level in InternImage(**dict(TINY, drop_path_rate=0.4)).levels
            for block in level.blocks
        ]
        assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])

    def test_starts_at_the_regular_grid(self):
        model = InternImage(**TINY)
        model.init_weights()
        for module in model.modules():
            if hasattr(module, 'offset'):
                assert module.offset.weight.count_nonzero() == module.mask.weight.count_nonzero() == 0
                assert module.input_proj.weight.count_nonzero() > 0

    @pytest.mark.parametrize(
        'change, error, message',
        [
            (dict(depthz=3), TypeError, 'depthz'),
            (dict(core_op='DCNv4'), ValueError, "core_op must be 'DCNv3', got 'DCNv4'"),
            (dict(groups=(3, 2, 4, 8)), ValueError, 'divisible by group, got 16 and 3'),
            (dict(groups=(1, 2)), ValueError, 'one entry per stage'),
            (dict(out_indices=(4,)), ValueError, r'stages 0 to 3, got \(4,\)'),
            (dict(frozen_stages=5), ValueError, 'from -1 to 4, got 5'),
            (dict(act_layer='gelu'), ValueError, "act_layer must be one of .* got 'gelu'"),
            (dict(norm_layer='GN'), ValueError, "norm_layer must be 'LN' or 'BN', got 'GN'"),
            (dict(level2_post_norm=True, level2_post_norm_block_ids=(7,)), ValueError, r'third stage, got \[7\]'),
        ],
    )
    def test_errors(self, change, error, message):
        with pytest.raises(error, match=message):
            InternImage(**{**TINY, **change})

    def test_bfloat16_autocast(self):
        torch.manual_seed(0)
        model, image = InternImage(**TINY), torch.randn(1, 3, 64, 96)
        exact = model.double()(image.double())[-1]
        with torch.autocast('cpu', torch.bfloat16):
            feature = model.float()(image)[-1]
        assert (feature.double() - exact).abs().max() < 0.1 * exact.abs().max()


class TestRegistry:
    @pytest.mark.parametrize('registry', [MODELS, mmdet.registry.MODELS, mmseg.registry.MODELS])
    def test_one_class_for_all(self, registry):
        assert type(registry.build(dict(type='InternImage', **TINY))) is InternImage

    def test_configs_take_the_published_variant(self):
        for path in ('coco/mask_rcnn_internimage_t_fpn_1x_coco', 'ade20k/upernet_internimage_t_512_160k_ade20k'):
            backbone = Config.fromfile(f'configs/{path}.py').model.backbone
            for key, value in VARIANTS['t'].items():
                assert list(backbone[key]) == list(value) if isinstance(value, tuple) else backbone[key] == value

    def test_small_variant_of_the_demo_configs(self):
        for name in ('mask_rcnn', 'upernet'):
            backbone = Config.fromfile(f'configs/demo/{name}_internimage_small_shapes.py').model.backbone
            assert {
                k: tuple(v) if isinstance(v, list) else v for k, v in backbone.items() if k in VARIANTS['small']
            } == (VARIANTS['small'])
        assert 1e6 < sum(p.numel() for p in build_variant('small').parameters()) < 2e6


class TestPretrained:
    """init_cfg takes an official ImageNet file."""

    @pytest.fixture
    def imagenet(self, tmp_path):
        """A file as the official classification code writes it: no layer scale, a head behind the backbone."""
        torch.manual_seed(1)
        model = InternImage(**TINY)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        head = {'conv_head.0.weight': torch.zeros(2, 2), 'head.weight': torch.zeros(3, 2), 'head.bias': torch.zeros(3)}
        path = tmp_path / 'internimage_tiny_1k.pth'
        torch.save({'model': {**model.state_dict(), **head}}, path)
        return path

    @pytest.fixture
    def log(self, monkeypatch):
        lines = []
        handler = logging.Handler()
        monkeypatch.setattr(handler, 'emit', lambda record: lines.append(record.getMessage()))
        logging.getLogger('internimage').addHandler(handler)
        yield lines
        logging.getLogger('internimage').removeHandler(handler)

    def build(self, path, **options):
        model = InternImage(**{**TINY, **options}, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
        model.init_weights()
        return model

    def test_loads_and_names_what_was_not_used(self, imagenet, log):
        model = self.build(imagenet)
        weights = torch.load(imagenet)['model']
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        assert 'not used: conv_head.0.weight, head.weight, head.bias' in log[0]

    def test_a_deeper_models_file_is_refused(self, imagenet):
        with pytest.raises(CheckpointError, match=r'unexpected: levels\.2\.blocks\.1\.norm1'):
            self.build(imagenet, depths=(1, 1, 1, 1))

    def test_layer_scale_of_one_may_be_missing(self, imagenet, log):
        """InternImage-T: no layer scale in its ImageNet model, layer_scale=1.0 in its detectors."""
        model = self.build(imagenet, layer_scale=1.0)
        assert (model.levels[0].blocks[0].gamma1 == 1).all()
        assert 'kept at 1: levels.0.blocks.0.gamma1' in log[0]

    @pytest.mark.parametrize(
        'options, message',
        [
            (dict(layer_scale=0.5), '10 missing: levels.0.blocks.0.gamma1'),
            (dict(depths=(1, 1, 3, 1)), 'missing: levels.2.blocks.2.norm1.0.weight'),
            (dict(channels=32), r'patch_embed.conv1.weight \(8, 3, 3, 3\) \(the model has \(16, 3, 3, 3\)\)'),
        ],
    )
    def test_another_model_is_refused_and_nothing_changes(self, imagenet, options, message):
        model = InternImage(**{**TINY, **options}, init_cfg=dict(type='Pretrained', checkpoint=str(imagenet)))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=message):
            model.init_weights()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @pytest.mark.parametrize('variant', ['t', 's', 'b', 'l', 'xl', 'h', 'g'])
    def test_official_files_fit(self, data, variant):
        """By names and shapes alone; H and G bring a CLIP projector, and T has no layer scale in its ImageNet form."""
        shapes = official(data, variant)['state_dict']
        weights = {name: torch.empty(shape, device='meta') for name, shape in shapes.items()}
        with torch.device('meta'):
            backbone = build_variant(variant, **(dict(layer_scale=1.0) if variant == 't' else {}))
        left_out = weights.keys() - backbone_weights(backbone, weights, variant)
        clip = {'clip_projector', 'dcnv3_head_x3', 'dcnv3_head_x4', 'fc_norm'}
        assert {name.split('.')[0] for name in left_out} == {'head', *(clip if variant in 'hg' else {'conv_head'})}

    def test_missing_file(self, tmp_path):
        with pytest.raises(CheckpointError, match='does not exist'):
            self.build(tmp_path / 'nothing.pth')

    def test_a_detectors_checkpoint(self, imagenet, tmp_path):
        weights = torch.load(imagenet)['model']
        path = tmp_path / 'detector.pth'
        torch.save({'state_dict': {f'backbone.{k}': v for k, v in weights.items()} | {'neck.w': torch.ones(1)}}, path)
        assert torch.equal(self.build(path).state_dict()['levels.0.norm.0.weight'], weights['levels.0.norm.0.weight'])


class TestCompilers:
    """torch.compile and torch.export see the whole backbone."""

    def model(self):
        torch.manual_seed(0)
        model = InternImage(**{**EVERYTHING, 'drop_path_rate': 0.0, 'drop_rate': 0.0}).eval()
        for module in model.modules():
            if isinstance(module, DCNv3):  # off the regular grid
                nn.init.normal_(module.offset.weight, std=0.2)
                nn.init.normal_(module.mask.weight, std=0.2)
        return model

    @pytest.mark.parametrize('dynamic', [False, True])
    def test_compile_without_graph_break(self, dynamic):
        model = self.model()
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend='aot_eager')
        for size in ((64, 96), (96, 64)) if dynamic else ((64, 96),):
            image = torch.randn(2, 3, *size)
            expected, actual = model(image), compiled(image)
            for a, b in zip(actual, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            names, parameters = zip(*model.named_parameters(), strict=True)
            gradients = [
                torch.autograd.grad(sum(f.square().mean() for f in features), parameters, allow_unused=True)
                for features in (actual, expected)
            ]
            for name, a, b in zip(names, *gradients, strict=True):
                if b is not None:
                    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f'{name}: {m}')

    @pytest.mark.slow
    def test_compile_with_the_default_backend(self):
        model, image = self.model(), torch.randn(1, 3, 64, 96)
        torch._dynamo.reset()
        with torch.no_grad():
            for a, b in zip(torch.compile(model, fullgraph=True)(image), model(image), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)

    def test_export_with_any_batch_height_and_width(self):
        model = self.model()
        # At 32 pixels the last stage has one row, and PyTorch takes a size of 1 for a case of its own.
        batch = torch.export.Dim('batch', min=1, max=64)
        height, width = (torch.export.Dim(name, min=2, max=64) for name in ('height', 'width'))
        exported = torch.export.export(
            model, (torch.randn(2, 3, 96, 64),), dynamic_shapes=({0: batch, 2: 32 * height, 3: 32 * width},)
        ).module()
        for shape in ((1, 3, 64, 128), (3, 3, 128, 96), (2, 3, 96, 64)):
            image = torch.randn(shape)
            for a, b in zip(exported(image), model(image), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
