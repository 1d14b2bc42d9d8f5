"""Spatial support of detectors and segmentors: mmcv's layers, nodes, the command."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_models
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from internimage.analysis import effective_receptive_field, effective_sampling_locations, offset_numbers
from internimage.analysis.support.layers import sampling
from internimage.openmmlab.cli import analyze_support
from internimage.openmmlab.datasets.shapes import generate_shapes
from internimage.openmmlab.inference import load_model, predict
from internimage.openmmlab.support import (
    ask_about_point,
    box_node,
    box_score_node,
    feature_node,
    layer_names,
    pixel_score_node,
    prepare,
)
from internimage.openmmlab.support.layers import (
    DeformConv2dPack,
    ModulatedDeformConv2dPack,
    MultiScaleDeformableAttention,
)
from ops_dcnv3 import reference

ROOT = Path(__file__).resolve().parents[2]


def randomise(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def read(image, said):
    """What the samples of an image (N, C, H, W) are: (N, C, ..., G, P)."""
    x, y = said.locations.flatten(1, -2).unbind(-1)
    found = reference.bilinear_sample(image.permute(0, 2, 3, 1), x, y)
    return found.movedim(-1, 1).unflatten(2, said.weights.shape[1:]) * said.weights[:, None]


class TestLayersOfMmcv:
    @pytest.mark.parametrize('kind', [DeformConv2dPack, ModulatedDeformConv2dPack])
    @pytest.mark.parametrize(
        'options', [dict(padding=1), dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2))], ids=str
    )
    def test_a_convolution_is_the_weighted_sum_over_its_samples(self, kind, options):
        layer = randomise(kind(4, 5, (3, 2), deform_groups=2, bias=False, **options))
        x = torch.randn(2, 4, 9, 8)
        (said,) = sampling(layer, (x,), {})
        assert said.size == (9, 8) and said.weights.shape[3:] == (2, 6)
        by_group = read(x, said).unflatten(1, (2, 2))  # (N, groups, channels, H, W, groups, points)
        own = torch.stack([by_group[:, g, :, :, :, g] for g in (0, 1)], dim=1).flatten(1, 2)
        expected = torch.einsum('nchwp,ocp->nohw', own, layer.weight.flatten(2))
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize('boxes', [False, True])
    @pytest.mark.parametrize('batch_first', [False, True])
    def test_attention_is_the_weighted_sum_over_its_samples(self, boxes, batch_first):
        layer = randomise(MultiScaleDeformableAttention(16, 4, 2, 3, batch_first=batch_first, dropout=0.0))
        shapes = torch.tensor([[6, 5], [3, 4]])
        query, query_pos, value = torch.randn(2, 7, 16), torch.randn(2, 7, 16), torch.randn(2, 42, 16)
        reference_points = torch.rand(2, 7, 2, 4 if boxes else 2)
        order = (lambda t: t) if batch_first else (lambda t: t.transpose(0, 1))
        options = dict(reference_points=reference_points, spatial_shapes=shapes, query_pos=order(query_pos))
        output = layer(order(query), value=order(value), **options)
        said = sampling(layer, (order(query),), dict(value=order(value), **options))
        assert [one.size for one in said] == [(6, 5), (3, 4)]
        maps = layer.value_proj(value).transpose(1, 2).split([30, 12], dim=2)
        found = 0
        for one, image in zip(said, maps, strict=True):
            by_head = read(image.unflatten(2, one.size), one).unflatten(1, (4, 4))  # (N, heads, channels, Q, heads, P)
            found = found + torch.stack([by_head[:, h, :, :, h].sum(-1) for h in range(4)], dim=1)
        expected = layer.output_proj(found.flatten(1, 2).transpose(1, 2)) + query
        torch.testing.assert_close(order(output), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize('kind', [DeformConv2dPack, ModulatedDeformConv2dPack])
    def test_planted_offsets_and_strengths(self, kind):
        layer = kind(1, 1, 3, padding=1, bias=False)
        nn.init.ones_(layer.weight)
        layer.conv_offset.bias.data[:18] = torch.tensor([-0.25, 0.5]).repeat(9)  # y before x
        model = nn.Sequential(nn.Conv2d(3, 1, 3, 2, 1, bias=False), layer)
        y, x = torch.meshgrid(torch.arange(24.0), torch.arange(20.0), indexing='ij')
        nn.init.zeros_(model[0].weight)
        model[0].weight.data[0, 0, 1, 1] = 1
        found = effective_sampling_locations(
            model, (3 * x + 4 * y).expand(1, 3, 24, 20), lambda m, image: m(image)[0, :, 5, 4]
        )
        expected = [(8 + 2 * (dx + 0.5), 10 + 2 * (dy - 0.25)) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        np.testing.assert_allclose(sorted(map(tuple, found.points)), sorted(expected), atol=1e-4)
        weight = 1.0 if kind is DeformConv2dPack else 0.5
        np.testing.assert_allclose(found.strength, 10 * weight, rtol=1e-4)  # twice the slope: pixels of the map


def build(config, folder, **model):
    """(model of load_model, its config file, its checkpoint) with random weights."""
    torch.manual_seed(0)
    cfg = config if isinstance(config, Config) else Config.fromfile(ROOT / f'configs/{config}.py')
    cfg.merge_from_dict(dict(model=model))
    cfg.dump(folder / 'config.py')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        network = MODELS.build(cfg.model)
    torch.save(dict(state_dict=network.state_dict()), folder / 'model.pth')
    return load_model(str(folder / 'config.py'), str(folder / 'model.pth'))


@pytest.fixture
def picture(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (72, 96, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'picture.png'), cv2.GaussianBlur(image, (0, 0), 2))
    return str(tmp_path / 'picture.png')


def resnet_with(kind):
    cfg = tiny_models.detector()
    cfg.model.backbone = dict(
        type='ResNet', depth=50, base_channels=8, stem_channels=8,
        dcn=dict(type=kind, deform_groups=1, fallback_on_stride=False), stage_with_dcn=(False, True, True, True),
    )  # fmt: skip
    cfg.model.neck.in_channels = [32, 64, 128, 256]
    return cfg


class TestNodes:
    @pytest.mark.parametrize('kind', ['DCN', 'DCNv2'])
    def test_of_resnets_with_deformable_convolution(self, kind, picture, tmp_path):
        model = build(resnet_with(kind), tmp_path)
        prepared = prepare(model, picture)
        assert prepared.input.shape[2:] == (96, 128) and prepared.scale == pytest.approx((4 / 3, 4 / 3))
        node = box_node(model, prepared, (20, 10, 60, 50))
        found = effective_sampling_locations(model, prepared.input, node, strongest=500, projections=2)
        assert len(found.layers) == 13 and len(found.points) == 500 and found.strength.min() > 0
        numbers = offset_numbers(model, prepared.input, node)
        assert len(numbers) == 13 and all(one.mean_offset == 0 and one.entropy == pytest.approx(1) for one in numbers)

    def test_of_a_resnet_with_plain_convolution(self, picture, tmp_path):
        model = build(tiny_models.detector(), tmp_path)
        prepared = prepare(model, picture)
        names = layer_names(model, ['backbone.layer[34].*.conv?'])
        assert len(names) == 8 and names[0] == 'backbone.layer3.0.conv1'
        node = feature_node(prepared, 'backbone', (48, 36), -1)
        found = effective_sampling_locations(model, prepared.input, node, layers=names)
        assert found.layers == names and found.strength.max() > 0
        assert len(feature_node(prepared, 'neck', (48, 36), 1)(model, prepared.input)) == 16

    def test_box_features_and_scores_are_those_of_the_box_head(self, picture, tmp_path):
        model = build(tiny_models.detector(), tmp_path)
        prepared, box, head = prepare(model, picture), (20.0, 10.0, 60.0, 50.0), model.roi_head
        rois = torch.tensor([[0, *prepared.box(box)]])
        with torch.no_grad():
            features = model.extract_feat(prepared.input)
            pooled = head.bbox_roi_extractor(features[:4], rois)
            scores = head._bbox_forward(features, rois)['cls_score'].softmax(1)[0]
            torch.testing.assert_close(
                box_node(model, prepared, box, 'pooled')(model, prepared.input), pooled.flatten()
            )
            shared = box_node(model, prepared, box)(model, prepared.input)
            torch.testing.assert_close(head.bbox_head.fc_cls(shared).softmax(0), scores)
            score = box_score_node(model, prepared, box, 1)
            torch.testing.assert_close(score(model, prepared.input), scores[1])
            both = score.batch(model, torch.cat([prepared.input, torch.zeros_like(prepared.input)]))
            assert both.shape == (2, 1) and float(both[0]) == pytest.approx(float(scores[1]), rel=1e-5)

    def test_of_a_cascade_is_the_mean_of_its_stages(self, picture, tmp_path):
        cfg = tiny_models.detector()
        head = cfg.model.roi_head
        cfg.model.type = 'CascadeRCNN'
        head.update(type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, 1], bbox_head=[head.bbox_head] * 2)
        head.update(mask_head=None, mask_roi_extractor=None)
        model = build(cfg, tmp_path)
        prepared, box = prepare(model, picture), (20.0, 10.0, 60.0, 50.0)
        node, rois = box_score_node(model, prepared, box, 0), torch.tensor([[0, *prepare(model, picture).box(box)]])
        with torch.no_grad():
            features = model.extract_feat(prepared.input)
            stages = [model.roi_head._bbox_forward(i, features, rois)['cls_score'].softmax(1)[0, 0] for i in (0, 1)]
            torch.testing.assert_close(node(model, prepared.input), sum(stages) / 2)
        assert box_node(model, prepared, box)(model, prepared.input).shape == (32,)

    @pytest.mark.parametrize('kind', ['deform_rfcn_internimage_small', 'faster_rcnn_internimage_small_mdpool'])
    def test_deformable_pools_take_part(self, kind, picture, tmp_path):
        model = build(f'demo/{kind}_bccd', tmp_path)
        prepared = prepare(model, picture)
        found = effective_sampling_locations(
            model, prepared.input, box_score_node(model, prepared, (20, 10, 60, 50), 1)
        )
        pools = [i for i, name in enumerate(found.layers) if name.startswith('roi_head')]
        assert pools and found.layer_strength[pools].sum() > 0
        place = found.points[np.isin(found.layer, pools)]
        x1, y1, x2, y2 = prepared.box((20, 10, 60, 50))
        assert (place >= (x1 - 0.5, y1 - 0.5)).all() and (place <= (x2 - 0.5, y2 - 0.5)).all()

    def test_of_a_dino_are_those_of_the_query_that_fits_best(self, picture, tmp_path):
        model = build('demo/dino_internimage_small_coco_mini', tmp_path, num_queries=20)
        found = predict(model, picture).pred_instances
        best = int(found.scores.argmax())
        prepared = prepare(model, picture)
        box, label = found.bboxes[best].tolist(), int(found.labels[best])
        node = box_score_node(model, prepared, box, label)
        assert float(node(model, prepared.input)) == pytest.approx(float(found.scores[best]), rel=1e-3)
        assert box_node(model, prepared, box)(model, prepared.input).dim() == 1
        samples = effective_sampling_locations(model, prepared.input, node)
        attention = [i for i, name in enumerate(samples.layers) if 'attn' in name]
        assert attention and samples.layer_strength[attention].sum() > 0

    @pytest.mark.parametrize('kind', ['upernet', 'mask2former'])
    def test_of_segmentors_are_what_decides_a_pixel(self, kind, picture, tmp_path):
        model = build(f'demo/{kind}_internimage_small_camvid', tmp_path)
        prepared = prepare(model, picture)
        result = predict(model, picture)
        label = int(result.pred_sem_seg.data[0, 30, 50])
        with torch.no_grad():
            scores = [float(pixel_score_node(prepared, (50, 30), i)(model, prepared.input)) for i in range(11)]
        assert int(np.argmax(scores)) == label
        question = ask_about_point(model, picture, prepared, (50, 30))
        assert question.title == model.dataset_meta['classes'][label] and question.object.any()
        assert effective_receptive_field(model, prepared.input, question.node).map.max() > 0


class TestCommand:
    def run(self, monkeypatch, *arguments):
        monkeypatch.setattr(sys, 'argv', ['analyze-support', *map(str, arguments)])
        analyze_support.main()

    @pytest.fixture
    def files(self, tmp_path, picture):
        cfg = tiny_models.detector()
        cfg.model.backbone = dict(type='InternImage', channels=8, depths=(1, 1, 1, 1), groups=(1, 1, 2, 4))
        build(cfg, tmp_path)
        return picture, tmp_path / 'config.py', tmp_path / 'model.pth'

    def test_all_views_of_the_best_detections(self, files, monkeypatch, tmp_path, capsys):
        out = tmp_path / 'out'
        self.run(monkeypatch, *files, '--top', 2, '--score-thr', 0, '--cell', 32, '--out-dir', out)
        records = json.loads((out / 'support.json').read_text())
        assert len(records) == 2 and all(set(record) >= {'erf', 'sampling', 'saliency', 'layers'} for record in records)
        first = records[0]
        assert first['image'] == files[0] and first['saliency']['error'] <= 0.1
        assert 0 <= first['erf']['inside'] <= 1 and 0 < first['erf']['area'] <= 1
        assert sum(first['sampling']['layers'].values()) == pytest.approx(1)
        assert {layer['layer'] for layer in first['layers']} == {f'backbone.levels.{i}.blocks.0.dcn' for i in range(4)}
        field = np.load(out / 'picture_0_erf.npz')['map']
        assert field.shape == (96, 128)
        for name in ('picture_0.png', 'picture_1.png', 'picture_0_layers.png'):
            drawn = cv2.imread(str(out / name))
            assert drawn.std() > 20
        assert cv2.imread(str(out / 'picture_0.png')).shape[1] > 1800
        assert 'erf' in capsys.readouterr().out
        assert not list(out.glob('.part*'))

    def test_points_and_boxes(self, files, monkeypatch, tmp_path):
        out = tmp_path / 'out'
        self.run(monkeypatch, *files, '--point', 50, 30, '--view', 'erf', '--projections', 4, '--out-dir', out)
        (record,) = json.loads((out / 'support.json').read_text())
        assert record['node'] == 'backbone' and record['erf']['inside'] is None
        self.run(
            monkeypatch, *files, '--point', 50, 30, '--module', 'neck:1', '--view', 'erf', '--projections', 4,
            '--out-dir', out,
        )  # fmt: skip
        self.run(monkeypatch, *files, '--box', 10, 10, 50, 40, '--of', 'pooled', '--view', 'erf', '--out-dir', out)
        (record,) = json.loads((out / 'support.json').read_text())
        assert record['node'] == 'pooled features' and record['erf']['standard_error'] > 0

    def test_the_data_set(self, monkeypatch, tmp_path, files):
        """The largest objects of the first images, with their masks."""
        generate_shapes(tmp_path / 'shapes', num_train=1, num_val=3)
        cfg = Config.fromfile(files[1])
        dataset = cfg.test_dataloader.dataset
        dataset.update(ann_file='annotations/instances_val.json', data_prefix=dict(img='images/val/'))
        dataset.update(data_root=str(tmp_path / 'shapes'), metainfo=dict(classes=('circle', 'square')))
        cfg.dump(files[1])
        out = tmp_path / 'out'
        self.run(monkeypatch, *files[1:], '--dataset', 2, '--top', 2, '--view', 'erf', '--out-dir', out)
        records = json.loads((out / 'support.json').read_text())
        assert 2 <= len(records) <= 4 and len({record['image'] for record in records}) <= 2
        for record in records:
            x1, y1, x2, y2 = record['box']
            assert 0 < record['erf']['object'] < (x2 - x1) * (y2 - y1) / (96 * 128)  # a mask, smaller than its box

    @pytest.mark.parametrize(
        'options, message',
        [
            (['--point', 96, 3], 'inside the image of 96 x 72 pixels'),
            (
                ['--point', 9, 3, '--module', 'backbon.levels'],
                "no module 'backbon.levels'; the most similar are",
            ),
            (['--point', 9, 3, '--module', 'neck:x'], 'NAME or NAME:INDEX'),
            (['--box', 10, 10, 10, 40], r'must have an area, X1 < X2 and Y1 < Y2, got'),
            (['--box', 96, 10, 120, 40], '--box must be on the image of 96 x 72 pixels'),
            (['--box', 10, 10, 50, 40, '--label', 2], '--label must be from 0 to 1, got 2'),
            (['--score-thr', 0.99], 'no detection above the threshold'),
            (['--layers', 'backbone.norm*', '--score-thr', 0], "no module fits the pattern 'backbone.norm*'"),
            (['--module', 'neck'], '--module needs --point'),
            (['--dataset', 3], 'not both'),
            (['--top', 0], '--top must be at least 1, got 0'),
        ],
    )
    def test_bad_input_is_one_line(self, files, monkeypatch, tmp_path, capsys, options, message):
        with pytest.raises(SystemExit) as stop:
            self.run(monkeypatch, *files, *options, '--out-dir', tmp_path / 'out')
        assert stop.value.code == 2
        output, error = capsys.readouterr()
        assert 'ETA' not in output  # before the progress starts
        assert message in error and error.startswith('error: ') and error.count('\n') == 1

    def test_a_model_without_deformable_layers(self, picture, monkeypatch, tmp_path, capsys):
        build(tiny_models.detector(), tmp_path)
        files = picture, tmp_path / 'config.py', tmp_path / 'model.pth'
        with pytest.raises(SystemExit):
            self.run(monkeypatch, *files, '--score-thr', 0, '--view', 'sampling', '--out-dir', tmp_path / 'out')
        output, error = capsys.readouterr()
        assert 'MaskRCNN has no deformable layer; name plain convolutions' in error and '--layers' in error
        assert 'ETA' not in output
