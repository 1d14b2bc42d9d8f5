"""The official detection configs, slimmed down, each on a tiny data set of its own format: a step, an evaluation."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from official import ROOT, read_entries
from test_roi_configs import slim
from tiny_detection_data import SIZE, WRITERS, Scenes

from internimage.openmmlab.configuration import dicts
from internimage.openmmlab.tta import use_tta

NAMES = sorted(read_entries('official_detection.json.gz'))
METRICS = dict(
    coco='coco/bbox_mAP',
    lvis='lvis/bbox_AP',
    voc='pascal_voc/mAP',
    openimages='openimages/mAP',
    crowd_human='crowd_human/mAP',
)
WIDTH = 32


def slim_dino(model):
    """A DINO with few channels, layers and queries, in place."""
    model.backbone.update(init_cfg=None, channels=16, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8])
    if 'level2_post_norm_block_ids' in model.backbone:
        model.backbone.level2_post_norm_block_ids = [0]
    sizes = dict(embed_dims=WIDTH, feedforward_channels=WIDTH, num_feats=WIDTH // 2, out_channels=WIDTH)
    sizes.update(num_groups=4, num_layers=2, num_queries=20, num_dn_queries=6)
    for node in dicts(model):
        node.update({name: value for name, value in sizes.items() if node.get(name) is not None})
    model.neck.in_channels = [32, 64, 128]


def shrink(dataset, root):
    for node in dicts(dataset):
        if 'data_root' in node:
            node.data_root = str(root)
        if 'scale' in node:
            node.scale = [(SIZE[0], 64), SIZE] if isinstance(node.scale, list) else SIZE
        if 'scales' in node:
            node.scales = [SIZE]
        if 'crop_size' in node:
            node.crop_size = (48, 64)


@pytest.fixture(scope='module')
def data_sets(tmp_path_factory):
    """{folder of configs: root of its data}, written when asked for."""
    base = tmp_path_factory.mktemp('data')
    scenes = Scenes(base / 'scenes')

    class Roots(dict):
        def __missing__(self, folder):
            self[folder] = base / folder
            WRITERS[folder](scenes, self[folder])
            return self[folder]

    return Roots()


@pytest.fixture
def runner_of(tmp_path, monkeypatch, data_sets):
    """Builds the Runner of a config of that name, slimmed, for one step and one evaluation."""
    monkeypatch.setattr(Runner, 'dump_config', lambda self: None)  # slow, and tested with the whole config
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on tensors this small threads wait for each other more than they work

    def build(name, tta=False, **changes):
        folder = name.split('/')[0]
        root = data_sets[folder]
        cfg = Config.fromfile(ROOT / f'configs/{name}.py')
        if 'roi_head' in cfg.model:
            slim(cfg.model, 1 if folder == 'crowd_human' else 80)
        else:
            slim_dino(cfg.model)
        for node in dicts(cfg.model):
            if node.get('type') == 'SyncBN':
                node.type = 'BN'
        for split in ('train', 'val', 'test'):
            loader = cfg[f'{split}_dataloader']
            loader.update(num_workers=0, persistent_workers=False)
            shrink(loader.dataset, root)
            evaluator = cfg.get(f'{split}_evaluator', {})
            if 'ann_file' in evaluator:
                evaluator.ann_file = evaluator.ann_file.replace(cfg.data_root, f'{root}/')
        cfg.update(
            work_dir=str(tmp_path),
            experiment_name=name,
            param_scheduler=[],
            log_level='ERROR',
            load_from=None,
            **changes,
        )
        length = dict(max_epochs=1) if 'max_epochs' in cfg.train_cfg else dict(max_iters=1)
        cfg.train_cfg.update(val_interval=1, **length)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1, save_last=False)
        if tta:
            use_tta(cfg)
        torch.manual_seed(0)
        return Runner.from_cfg(cfg)

    yield build
    torch.set_num_threads(threads)


# With a tiny backbone these differ from another one in nothing that a step of training meets.
DUPLICATE = re.compile(r'internimage_(s|b|g)_|cascade_internimage_xl_fpn_.x_coco|l_1x_coco_layer|minival|voc12')


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=[pytest.mark.slow] if DUPLICATE.search(n) else [], id=n) for n in NAMES]
)
def test_trains_a_step_and_evaluates(name, runner_of):
    runner = runner_of(name, test_dataloader=None, test_cfg=None, test_evaluator=None)
    runner.model.init_weights()
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()

    losses = {
        key: buffer.current() for key, buffer in runner.message_hub.log_scalars.items() if key.startswith('train/')
    }
    assert runner.iter >= 1 and any('loss' in key for key in losses)
    assert all(torch.isfinite(torch.tensor(value)) for key, value in losses.items() if 'loss' in key), losses
    assert any(key.startswith('train/cb0.loss') for key in losses) is ('cbinternimage' in name)
    changed = {name.split('.')[0] for name, value in runner.model.state_dict().items() if not value.equal(before[name])}
    assert {'backbone', 'neck'} < changed
    found = runner.message_hub.get_scalar('val/' + METRICS[name.split('/')[0]]).current()
    assert 0 <= found <= 1


@pytest.mark.parametrize(
    'name',
    [
        'coco/dino_4scale_internimage_t_1x_coco_layer_wise_lr',
        'coco/faster_rcnn_internimage_t_fpn_1x_coco',
        'crowd_human/cascade_internimage_xl_fpn_3x_crowd_human',
    ],
)
def test_augmentation_at_test_time(name, runner_of):
    runner = runner_of(name, tta=True)
    runner.model.module.init_weights()
    assert 0 <= runner.test()[METRICS[name.split('/')[0]]] <= 1


def test_the_test_split_of_voc12(runner_of):
    runner = runner_of('voc/dino_4scale_cbinternimage_h_objects365_voc12')
    assert 'VOC2012test' in runner.test_dataloader.dataset[0]['data_samples'].img_path
    assert runner.test()['pascal_voc/mAP'] >= 0
