"""Whole detectors and segmentors as one graph find what mmdet's and mmseg's own prediction finds."""

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from internimage.export import ExportError, example_image, export
from internimage.openmmlab.configuration import dicts, load_config
from internimage.openmmlab.export import exportable

WIDTH, CHANNELS = 16, [16, 32, 64, 128]
CONFIGS = dict(
    mask_rcnn='demo/mask_rcnn_internimage_small_shapes',
    modulated_pooling='demo/mask_rcnn_internimage_small_mdpool_nuclei',
    cascade='coco/cascade_mask_rcnn_internimage_t_fpn_1x_coco',
    deformable_rfcn='demo/deform_rfcn_internimage_small_bccd',
    dino='demo/dino_internimage_small_coco_mini',
    mask2former='demo/mask2former_internimage_small_camvid',
    upernet='demo/upernet_internimage_small_shapes',
    segformer='mapillary/segformer_internimage_l_512x1024_80k_mapillary',
)
# Layers that start so small that all classes, boxes and samples look alike, and how far their weights spread here.
SPREAD = {
    1.0: ('fc_cls', 'cls_maps', 'conv_seg', 'cls_embed', 'mask_embed'),
    0.2: ('cls_branches',),  # with more, the best sigmoids are exactly 1, and which of them are kept is chance
    0.15: ('fc_reg', 'rpn', 'logits', 'offset', 'mask_fc', 'box_maps', 'dcn.mask', 'reg_branches'),
}


def tiny(name: str) -> nn.Module:
    """The model of a config, narrow and shallow, with random weights that find something."""
    cfg = load_config(CONFIGS[name])
    model = cfg.model
    stages = len(model.backbone.depths)
    model.backbone.update(channels=CHANNELS[0], depths=[1] * stages, groups=[1, 2, 4, 8][:stages], init_cfg=None)
    channels = [CHANNELS[i] for i in model.backbone.get('out_indices', range(stages))]
    if 'roi_head' in model:
        for node in dicts(model):
            for key in ('fc_out_channels', 'conv_out_channels', 'feat_channels', 'output_channels', 'out_channels'):
                if key in node:
                    node[key] = WIDTH
            if 'in_channels' in node:
                node.in_channels = WIDTH
            if 'deform_fc_channels' in node:
                node.deform_fc_channels = WIDTH
            if 'num_classes' in node:
                node.num_classes = 3
            if 'norm_cfg' in node and node.norm_cfg.type == 'GN':
                node.norm_cfg.num_groups = 4
            if 'nms_pre' in node:
                node.update(nms_pre=60, max_per_img=20)
            if 'score_thr' in node:
                node.update(score_thr=0.1, max_per_img=12)
        if not model.get('neck'):
            model.rpn_head.in_channels, model.roi_head.bbox_head.in_channels = channels[-1], channels[-1]
    if model.get('neck'):
        model.neck.in_channels = channels
    for head in ('decode_head', 'auxiliary_head'):
        if model.get(head):
            model[head].in_channels = channels if head == 'decode_head' else channels[2]
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        built = MODELS.build(model).eval()
    built.init_weights()
    for parameter_name, parameter in built.named_parameters():
        for std, layers in SPREAD.items():
            if parameter.dim() > 1 and any(layer in parameter_name for layer in layers):
                nn.init.normal_(parameter, std=std)
    return built


@pytest.mark.parametrize('name', CONFIGS)
def test_what_is_traced_finds_what_the_model_finds(name):
    network = exportable(tiny(name))
    image = torch.from_numpy(example_image((96, 160), batch=2, seed=3))
    expected = network.reference(image)
    with network.traceable(), torch.no_grad():
        found = {key: value.numpy() for key, value in network(image).items()}
    assert list(found) == network.names
    agreement = network.compare(expected, found)
    assert not agreement.faults, agreement
    if 'scores' in expected:
        scores = expected['scores'][expected['scores'] > 0]
        assert len(scores) > 5 and len(set(scores)) > 0.9 * len(scores) and len(set(expected['labels'].ravel())) > 1
    else:
        assert len(set(expected['label_map'].ravel())) > 1
    if 'masks' in expected:
        assert expected['masks'].any()
    for key, value in network.reference(image).items():  # nothing of the tracing is left
        assert (value == expected[key]).all()


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_onnx_finds_what_the_model_finds(name, tmp_path):
    """In images of another size and number than those of the trace; `export` compares."""
    onnx = pytest.importorskip('onnx')
    done = export(exportable(tiny(name)), tmp_path / 'model.onnx', size=(128, 160))
    assert done.agreement.notes and '0 detections' not in done.agreement.notes
    model = onnx.load(tmp_path / 'model.onnx')
    assert {node.domain for node in model.graph.node} <= {'', 'ai.onnx'} and not model.functions


@pytest.mark.slow
@pytest.mark.parametrize('name', ['modulated_pooling', 'dino'])
def test_pt2_finds_what_the_model_finds(name, tmp_path):
    export(exportable(tiny(name)), tmp_path / 'model.pt2', 'pt2', (128, 160))


def test_what_cannot_be_exported_is_said():
    model = tiny('mask_rcnn')
    model.test_cfg.rcnn.nms = dict(type='soft_nms', iou_threshold=0.5)
    with pytest.raises(ExportError, match='test_cfg.rcnn.nms must be plain non-maximum suppression, got .*soft_nms'):
        exportable(model)

    class Other(nn.Module):
        backbone = None

    with pytest.raises(ExportError, match='^Other cannot be exported: Faster, Mask and Cascade R-CNN, R-FCN, DINO'):
        exportable(Other())
