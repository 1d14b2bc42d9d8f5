"""The configs with learned RoI pooling, R-FCN, cascades and ResNets: each builds; slimmed down, it trains.

The data: generated shapes, and the real COCO photos beside a developer's checkout.
"""

import internimage  # noqa: F401  (first of all: it may be where mmcv has its operators from)

# isort: split
from pathlib import Path

import pytest
import torch
from mmcv.ops import DeformConv2dPack
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from internimage.openmmlab.configuration import dicts
from internimage.openmmlab.datasets import generate_shapes
from internimage.openmmlab.engine.layer_decay import ROI_OFFSET_LAYERS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
PATHS = [
    path
    for path in sorted([*(CONFIGS / 'coco').glob('*.py'), *(CONFIGS / 'demo').glob('*.py')])
    if any(part in path.stem for part in ('faster_rcnn', 'cascade_mask_rcnn_internimage_t', 'rfcn', 'dpool'))
]
IMAGE_SCALE = (128, 96)
WIDTH = 32


def offset_layers(model):
    """{name: parameter} of what predicts offsets and modulation of RoI pools."""
    return {n: p for n, p in model.named_parameters() if not ROI_OFFSET_LAYERS.isdisjoint(n.split('.'))}


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_builds_in_full_size_and_can_be_dumped(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert bool(offset_layers(model)) is any(part in path.stem for part in ('dpool', 'deform_rfcn'))
    rates = cfg.optim_wrapper.paramwise_cfg
    if cfg.optim_wrapper.optimizer.type == 'AdamW':
        assert rates.get('roi_offset_lr_scale', 1.0) == (0.1 if offset_layers(model) else 1.0)
    else:
        assert {name: rates.custom_keys[name].lr_mult for name in ROI_OFFSET_LAYERS} == dict.fromkeys(
            ROI_OFFSET_LAYERS, 0.1
        )
        assert rates.get('dcn_offset_lr_mult', 1.0) == (0.1 if 'mdconv' in path.stem else 1.0)


def slim(model, num_classes):
    """The same architecture with few channels, layers and RoIs, in place."""
    backbone = model.backbone
    backbone.init_cfg = None
    stages = backbone.num_stages if backbone.type == 'ResNet' else len(backbone.depths)
    if backbone.type == 'ResNet':
        backbone.base_channels = 8
        channels = [32, 64, 128, 256]
    else:
        channels = [16, 32, 64, 128][:stages]
        backbone.update(channels=16, depths=[1] * stages, groups=[1, 2, 4, 8][:stages])
    rates = dict(fc_out_channels=WIDTH, conv_out_channels=WIDTH, feat_channels=WIDTH, deform_fc_channels=16)
    for node in dicts(model):
        node.update({name: value for name, value in rates.items() if name in node})
        if 'output_channels' in node:
            node.update(output_channels=WIDTH, deform_fc_channels=16)
        if 'num_classes' in node:
            node.num_classes = num_classes
        if 'norm_cfg' in node and node.norm_cfg.type == 'GN':
            node.norm_cfg.num_groups = 4
        if 'out_channels' in node:
            node.out_channels = WIDTH
        if 'in_channels' in node:
            node.in_channels = WIDTH
        if 'nms_pre' in node:
            node.update(nms_pre=50, max_per_img=16)
        if 'sampler' in node and node.sampler.num < 10**6:
            node.sampler.num = 16
        if 'score_thr' in node:
            node.update(score_thr=0.0, max_per_img=10)  # an untrained model finds something, too
    if model.neck:
        model.neck.in_channels = channels
    else:
        model.rpn_head.in_channels = channels[2]
        model.roi_head.bbox_head.in_channels = channels[-1]
        model.train_cfg.rcnn.ohem = 8
    if 'mimic' in model:
        model.mimic.update(num=2, patch_size=64)


@pytest.fixture(scope='module')
def one_thread():
    """On tensors this small threads wait for each other more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    generate_shapes(root, num_train=2, num_val=2, size=IMAGE_SCALE)
    return root


def use_data(cfg, kind, root):
    """`cfg` on two images of the shapes or of COCO; the number of classes."""
    if 'mask_head' not in cfg.model.roi_head or cfg.model.roi_head.mask_head is None:
        coco = Config.fromfile(CONFIGS / '_base_/datasets/coco_detection.py')
    else:
        coco = Config.fromfile(CONFIGS / '_base_/datasets/coco_instance.py')
    cfg.pop('classes', None)  # those of the demo's own data
    for split in ('train', 'val'):
        if cfg.data_root != coco.data_root:  # a demo, on other data
            cfg[f'{split}_dataloader'] = coco[f'{split}_dataloader']
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=str(root), indices=2)
        if kind == 'shapes':
            loader.dataset.update(
                type='ShapesDataset',
                ann_file=f'annotations/instances_{split}.json',
                data_prefix=dict(img=f'images/{split}/'),
            )
        loader.dataset.pop('metainfo', None)  # the classes are those of the data set
        for transform in loader.dataset.pipeline:
            if 'scale' in transform:
                transform.scale = IMAGE_SCALE
    cfg.val_evaluator = coco.val_evaluator
    cfg.val_evaluator.ann_file = str(root / cfg.val_dataloader.dataset.ann_file)
    cfg.val_evaluator.classwise = False
    return 5 if kind == 'shapes' else 80


def skip_without_deformable_convolution(cfg):
    """mmcv's, in the ResNets: some builds of mmcv have no CPU code for it."""
    if 'dcn' in cfg.model.backbone:
        try:
            DeformConv2dPack(1, 1, 1)(torch.zeros(1, 1, 2, 2))
        except RuntimeError as error:
            pytest.skip(f"mmcv's deformable convolution does not run on the CPU: {error}")


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
@pytest.mark.parametrize('kind', ['shapes', pytest.param('coco_mini', marks=pytest.mark.slow)])
def test_trains_a_step_and_evaluates(path, kind, request, tmp_path, one_thread, monkeypatch):
    root = request.getfixturevalue('shapes') if kind == 'shapes' else request.getfixturevalue('shared') / 'data' / kind
    torch.manual_seed(0)
    cfg = Config.fromfile(path)
    skip_without_deformable_convolution(cfg)
    num_classes = use_data(cfg, kind, root)
    slim(cfg.model, num_classes)
    cfg.update(
        work_dir=str(tmp_path),
        experiment_name=f'{path.stem}-{kind}',
        param_scheduler=[],
        test_dataloader=None,
        test_cfg=None,
        test_evaluator=None,
        log_level='ERROR',
    )
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1, save_last=False)
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    runner.model.init_weights()
    before = {name: value.clone() for name, value in offset_layers(runner.model).items()}
    runner.train()

    assert runner.iter == 1
    losses = {
        name: buffer.current() for name, buffer in runner.message_hub.log_scalars.items() if name.startswith('train/')
    }
    assert all(torch.isfinite(torch.tensor(value)) for name, value in losses.items() if 'loss' in name), losses
    assert runner.message_hub.get_scalar('val/coco/bbox_mAP').current() >= 0
    assert not before or any(not torch.equal(value, before[n]) for n, value in offset_layers(runner.model).items())
