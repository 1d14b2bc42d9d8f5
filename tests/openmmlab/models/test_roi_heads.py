import internimage  # noqa: F401  (first of all: it may be where mmcv has its operators from)

# isort: split
from pathlib import Path

import mmcv.ops
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import nn

import ops_dcnv3
from internimage.openmmlab.engine import keep_boxes_exact
from internimage.openmmlab.models import DeformRoIExtractor, MimicRoIHead, RFCNHead, RFCNRoIHead
from internimage.openmmlab.models.mimic import mimic_distance

DEMO = Path(__file__).resolve().parents[3] / 'configs' / 'demo'
LEARNED = ['faster_rcnn_internimage_small_dpool_bccd', 'faster_rcnn_internimage_small_mdpool_bccd']
LEARNED += ['mask_rcnn_internimage_small_mdpool_nuclei', 'deform_rfcn_internimage_small_bccd']
SIZE = (96, 128)  # height, width


def build(name, **changes):
    torch.manual_seed(0)
    cfg = Config.fromfile(DEMO / f'{name}.py')
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
        model.init_weights()
    return model


def batch(boxes=((10, 12, 50, 60), (40, 30, 110, 90)), images=2):
    """Images (N, 3, 96, 128) and samples with these boxes and their masks, classes 0, 0, ..."""
    torch.manual_seed(1)
    samples = []
    for _ in range(images):
        masks = np.zeros((len(boxes), *SIZE), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[y1:y2, x1:x2] = 1
        sample = DetDataSample(
            metainfo=dict(img_shape=SIZE, ori_shape=SIZE, batch_input_shape=SIZE, pad_shape=SIZE, scale_factor=(1, 1))
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.zeros(len(boxes), dtype=torch.long),
            masks=BitmapMasks(masks, *SIZE),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        samples.append(sample)
    return torch.randn(images, 3, *SIZE), samples


def total(losses):
    return sum(torch.stack(list(x)).sum() if isinstance(x, list) else x for k, x in losses.items() if 'loss' in k)


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """On tensors this small threads wait for each other more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def offset_parameters(model):
    parts = ('offset_fc.4', 'mask_fc.2', 'offset_conv')
    return {name: p for name, p in model.named_parameters() if any(part in name for part in parts)}


# Extractors


FPN = dict(out_channels=4, featmap_strides=[4, 8, 16])
ROIS = torch.tensor(
    [
        [0, 3.0, 5, 40, 61],
        [1, -8, 20, 190, 160],
        [0, 100, 30, 380, 300],  # level 2
        [1, 0, 0, 12, 10],
    ]
)


def pyramid():
    torch.manual_seed(2)
    return [torch.randn(2, 4, 320 // stride, 400 // stride) for stride in (4, 8, 16)]


@pytest.mark.parametrize('kind, scale', [('DeformRoIPoolPack', 1.0), ('ModulatedDeformRoIPoolPack', 0.5)])
@pytest.mark.parametrize('output_size', [7, (3, 2)])
def test_a_new_pool_is_roi_align(kind, scale, output_size):
    """At zero offset; what modulates starts at a half."""
    align = SingleRoIExtractor(dict(type='RoIAlign', output_size=output_size, sampling_ratio=2), **FPN)
    roi_layer = dict(type=kind, output_size=output_size, output_channels=4, deform_fc_channels=8, sampling_ratio=2)
    learned = DeformRoIExtractor(ConfigDict(roi_layer), **FPN)
    features = pyramid()
    torch.testing.assert_close(learned(features, ROIS), align(features, ROIS) * scale, rtol=1e-5, atol=1e-5)


def test_every_level_has_a_layer_of_its_own_and_learns():
    roi_layer = dict(type='ModulatedDeformRoIPoolPack', output_size=3, output_channels=4, deform_fc_channels=8)
    extractor = DeformRoIExtractor(roi_layer, **FPN)
    features = [x.requires_grad_() for x in pyramid()]
    assert {type(layer) for layer in extractor.roi_layers} == {ops_dcnv3.ModulatedDeformRoIPoolPack}
    assert [layer.spatial_scale for layer in extractor.roi_layers] == [1 / 4, 1 / 8, 1 / 16]
    extractor(features, ROIS).square().sum().backward()
    for x in (
        *features,
        *(p for n, p in extractor.named_parameters() if n.endswith(('offset_fc.4.bias', 'mask_fc.2.bias'))),
    ):
        assert x.grad.isfinite().all() and x.grad.any()


def test_no_rois():
    roi_layer = dict(type='DeformRoIPoolPack', output_size=3, output_channels=4, deform_fc_channels=8)
    extractor = DeformRoIExtractor(roi_layer, **FPN)
    out = extractor(pyramid(), torch.zeros(0, 5))
    assert out.shape == (0, 4, 3, 3)
    out.sum().backward()  # no parameter without gradient: data-parallel training waits for every one
    assert all(p.grad is not None for p in extractor.parameters())


def test_other_layers_are_those_of_mmcv():
    roi_align = DeformRoIExtractor(dict(type='RoIAlign', output_size=7), **FPN)
    assert type(roi_align.roi_layers[0]) is mmcv.ops.RoIAlign
    assert type(DeformRoIExtractor(dict(type=nn.Identity), **FPN).roi_layers[0]) is nn.Identity
    with pytest.raises(ValueError, match="must be a pool of ops_dcnv3 or mmcv.ops, got 'RoIAling'"):
        DeformRoIExtractor(dict(type='RoIAling', output_size=7), **FPN)


# Detectors


@pytest.mark.parametrize('name', LEARNED)
def test_detector_starts_regular_and_learns_offsets(name):
    model = build(name)
    assert offset_parameters(model) and not any(p.any() for p in offset_parameters(model).values())
    images, samples = batch()
    total(model.loss(images, samples)).backward()
    gradients = [p.grad for p in offset_parameters(model).values() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)


@pytest.mark.parametrize('name', LEARNED)
def test_mixed_precision_on_the_cpu(name):
    model = build(name)
    keep_boxes_exact(model)
    images, samples = batch()
    with torch.autocast('cpu', torch.bfloat16):
        loss = total(model.loss(images, samples))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        (result, _) = model.eval().predict(images, samples)
    assert result.pred_instances.bboxes.dtype == torch.float32


@pytest.mark.parametrize('name', ['faster_rcnn_internimage_small_mdpool_bccd', 'deform_rfcn_internimage_small_bccd'])
def test_images_without_objects(name):
    images, samples = batch(boxes=())
    model = build(name)
    loss = total(model.loss(images, samples))
    loss.backward()
    assert loss.isfinite()


# R-FCN

K, CLASSES = 2, 2


def hand_made(deformable=False):
    """An RFCNHead of 2 x 2 bins whose maps are the channels of its input: 3 x 4 of scores, then 4 x 4 of boxes."""
    scores, boxes = (CLASSES + 1) * K * K, 4 * K * K
    head = RFCNHead(
        in_channels=scores + boxes,
        feat_channels=scores + boxes,
        stride=4,
        pool_size=K,
        sampling_ratio=2,
        deformable=deformable,
        num_classes=CLASSES,
    )
    eye = torch.eye(scores + boxes)[..., None, None]
    parts = ((head.reduce.conv, eye), (head.cls_maps, eye[:scores]), (head.box_maps, eye[scores:]))
    for layer, weight in parts:
        layer.weight.data.copy_(weight)
        layer.bias.data.zero_()
    return head


def hand_made_features():
    """Class 1 has an object in rows and columns 2 to 6 of an 8 x 8 map, a part in each quarter; of class 0 there is
    only the part top left. Map (d, i, j) of a box has the value d + i + j all over."""
    x = torch.zeros(1, 28, 8, 8)
    for i in range(K):
        for j in range(K):
            x[0, 1 * 4 + i * K + j, 2 + 2 * i : 4 + 2 * i, 2 + 2 * j : 4 + 2 * j] = 1
            for d in range(4):
                x[0, 12 + d * 4 + i * K + j] = d + i + j
    x[0, 0 * 4, 2:4, 2:4] = 1
    return x


#   pixels, stride 4: the object; the object's box moved by half its width, where every part is in the wrong place
OBJECT_AND_BESIDE = torch.tensor([[0, 8.0, 8, 24, 24], [0, 16, 8, 32, 24]])


@pytest.mark.parametrize('deformable', [False, True])
def test_bins_vote(deformable):
    scores, deltas = hand_made(deformable)(hand_made_features(), OBJECT_AND_BESIDE)
    torch.testing.assert_close(scores, torch.tensor([[0.25, 1, 0], [0, 0, 0]]))
    torch.testing.assert_close(deltas, torch.tensor([[1.0, 2, 3, 4]] * 2))  # d + the mean of i + j


def test_the_best_vote_becomes_the_detection():
    head = hand_made()
    scores, deltas = head(
        hand_made_features() * torch.tensor([8.0] * 12 + [1.0] * 16)[:, None, None], OBJECT_AND_BESIDE
    )
    cfg = ConfigDict(score_thr=0.5, nms=dict(type='nms', iou_threshold=0.3), max_per_img=10)
    meta = dict(img_shape=(200, 200), scale_factor=(1, 1))
    (result,) = head.predict_by_feat([OBJECT_AND_BESIDE], [scores], [deltas], [meta], rcnn_test_cfg=cfg)
    # centre (16, 16) + 0.1 * (1, 2) * 16, size 16 * exp(0.2 * (3, 4))
    centre, size = torch.tensor([17.6, 19.2]), 16 * torch.tensor([0.6, 0.8]).exp()
    torch.testing.assert_close(result.bboxes, torch.cat([centre - size / 2, centre + size / 2])[None])
    assert result.labels.tolist() == [1]
    torch.testing.assert_close(result.scores, scores[0].softmax(0)[1:2])


def roi_head(ohem=2):
    return RFCNRoIHead(
        bbox_head=dict(type='RFCNHead', in_channels=4, feat_channels=4, stride=4, pool_size=2, num_classes=2),
        train_cfg=ConfigDict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5),
            sampler=dict(type='RandomSampler', num=100, pos_fraction=1.0),
            pos_weight=-1,
            ohem=ohem,
        ),
    )


def test_hard_examples_are_chosen_per_image_by_both_losses():
    rois = torch.zeros(6, 5)
    rois[:, 0] = torch.tensor([0, 0, 0, 1, 1, 1])
    labels = torch.tensor([0, 2, 2, 1, 1, 2])
    scores = torch.full((6, 3), -9.0)
    scores[torch.arange(6), labels] = 9  # all well classified,
    scores[1, 2] = -9  # but one,
    deltas = torch.zeros(6, 4)
    targets = torch.zeros(6, 4)
    targets[3] = 5  # and one badly placed
    targets[1] = 50  # background has no box
    hard = roi_head().hardest(1, scores, deltas, rois, labels, torch.ones(6), targets, torch.ones(6, 4))
    assert hard.tolist() == [1, 3]


def test_only_hard_examples_are_trained_on():
    head = roi_head(ohem=2)
    torch.manual_seed(0)
    x = torch.randn(2, 4, 16, 16)
    boxes = torch.rand(8, 4) * 30
    boxes[:, 2:] += boxes[:, :2] + 4
    proposals, truth = InstanceData(priors=boxes), InstanceData(bboxes=boxes[:3] + 0.1, labels=torch.tensor([0, 1, 1]))
    sampled = [head.bbox_sampler.sample(head.bbox_assigner.assign(proposals, truth), proposals, truth)] * 2
    labels = torch.cat([sampled[0].pos_gt_labels, torch.full((len(sampled[0].neg_inds),), 2)])
    assert len(labels) == len(boxes) + len(truth)  # the sampler let all of them through, and the truth itself

    found = head.bbox_loss((x,), sampled)
    found['cls_score'].retain_grad()
    found['loss_bbox']['loss_cls'].backward()
    trained = found['cls_score'].grad.abs().sum(1) > 0
    assert trained.unflatten(0, (2, -1)).sum(1).tolist() == [2, 2]
    losses = F.cross_entropy(found['cls_score'], labels.repeat(2), reduction='none')
    torch.testing.assert_close(found['loss_bbox']['loss_cls'], losses[trained].mean())


def test_rpn_and_maps_take_different_features():
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build('rfcn_internimage_small_bccd')
        first, last = torch.randn(1, 128, 6, 8), torch.randn(1, 128, 6, 8)
        alone, _ = model.rpn_head((first,))
        both, _ = model.rpn_head((first, last))
        assert len(both) == 1 and torch.equal(alone[0], both[0])
        rois = torch.tensor([[0, 10.0, 10, 60, 60]])
        found = model.roi_head._bbox_forward((first, last), rois)
        assert torch.equal(found['cls_score'], model.roi_head.bbox_head(last, rois)[0])


def test_rfcn_pools_by_itself():
    with pytest.raises(ValueError, match='bbox_roi_extractor must be None'):
        RFCNRoIHead(bbox_roi_extractor=dict(type='SingleRoIExtractor'), bbox_head=dict())


# Feature mimicking

MIMIC = {
    'type': 'MimicFasterRCNN',
    'mimic': dict(num=3, patch_size=64, loss_weight=0.1),
    'roi_head.type': 'MimicRoIHead',
}


@pytest.fixture
def mimic():
    return build('faster_rcnn_internimage_small_mdpool_bccd', **MIMIC)


def test_mimic_distance():
    a = torch.tensor([[3.0, 4], [1, 0]])
    assert mimic_distance(a, 2 * a).item() == pytest.approx(0, abs=1e-6)
    assert mimic_distance(a, torch.tensor([[-3.0, -4], [0, 1]])).item() == pytest.approx(1.5)


def test_a_patch_of_the_whole_image_has_nothing_to_mimic(mimic):
    """The branches share their weights: shown the same pixels they see the same."""
    mimic.eval()
    images = torch.randn(2, 3, 64, 64)
    rois = torch.tensor([[0, 0.0, 0, 64, 64], [1, 0, 0, 64, 64]])
    features = mimic.roi_head.shared_features(mimic.extract_feat(images), rois)
    losses = mimic.mimic_loss(images, rois, torch.tensor([0, 1]), features)
    assert losses['loss_mimic'].item() == pytest.approx(0, abs=1e-6)
    other = mimic.mimic_loss(images.roll(9, 3), rois, torch.tensor([0, 1]), features)
    assert other['loss_mimic'].item() > 1e-4


def test_patches_are_the_pixels_of_the_rois(mimic, monkeypatch):
    seen = []
    monkeypatch.setattr(mimic, 'extract_feat', lambda x: seen.append(x) or ())
    monkeypatch.setattr(mimic.roi_head, 'shared_features', lambda x, rois: seen.append(rois))
    images = torch.rand(2, 3, 80, 100)
    mimic.patch_features(images, torch.tensor([[1, 20.0, 10, 84, 74]]))
    torch.testing.assert_close(seen[0], images[1:, :, 10:74, 20:84])
    assert seen[1].tolist() == [[0, 0, 0, 64, 64]]


def test_mimic_trains_both_branches(mimic):
    images, samples = batch()
    losses = mimic.loss(images, samples)
    assert {'loss_mimic', 'loss_mimic_cls', 'loss_cls', 'loss_bbox'} <= losses.keys() and 'foreground' not in losses
    (losses['loss_mimic'] + losses['loss_mimic_cls']).backward()
    for layer in (mimic.mimic_fc_cls, mimic.roi_head.bbox_head.shared_fcs[-1], mimic.backbone.patch_embed.conv1):
        assert layer.weight.grad.isfinite().all() and layer.weight.grad.any()
    assert mimic.roi_head.bbox_head.fc_cls.weight.grad is None  # the classifier of the detector is its own


def test_mimic_draws_a_number_of_rois_per_image(mimic, monkeypatch):
    seen = []
    features = torch.randn(7, 256)
    monkeypatch.setattr(mimic, 'patch_features', lambda images, rois: seen.append(rois) or features[: len(rois)])
    rois = torch.zeros(7, 5)
    rois[5:, 0] = 1
    mimic.mimic_loss(torch.zeros(2, 3, 8, 8), rois, torch.zeros(7, dtype=torch.long), features)
    assert seen[0][:, 0].tolist() == [0, 0, 0, 1, 1]


def test_mimic_without_foreground(mimic):
    images, samples = batch(boxes=())
    losses = mimic.loss(images, samples)
    assert losses['loss_mimic'] == 0 and losses['loss_mimic_cls'] == 0
    total(losses).backward()
    assert not mimic.mimic_fc_cls.weight.grad.any()


def test_no_branch_at_inference(mimic, monkeypatch):
    monkeypatch.setattr(mimic, 'patch_features', lambda *args: pytest.fail('the branch ran'))
    plain = build('faster_rcnn_internimage_small_mdpool_bccd')
    missing, extra = plain.load_state_dict(mimic.state_dict(), strict=False)
    assert not missing and sorted(extra) == ['mimic_fc_cls.bias', 'mimic_fc_cls.weight']
    images, samples = batch(images=1)
    with torch.no_grad():
        (a,), (b,) = (model.eval().predict(images, [samples[0].clone()]) for model in (mimic, plain))
    assert torch.equal(a.pred_instances.scores, b.pred_instances.scores)


def test_mimic_needs_its_heads():
    with pytest.raises(ValueError, match='roi_head must be a MimicRoIHead, got StandardRoIHead'):
        build('faster_rcnn_internimage_small_bccd', type='MimicFasterRCNN', mimic=dict())
    with pytest.raises(ValueError, match='classify the output of shared fully connected layers.* got BBoxHead'):
        MimicRoIHead(
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor',
                roi_layer=dict(type='RoIAlign', output_size=7),
                out_channels=4,
                featmap_strides=[4],
            ),
            bbox_head=dict(type='BBoxHead', in_channels=4),
        )
