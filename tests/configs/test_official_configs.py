"""The ported configs against the official numbers (tests/data/official_hyperparameters.json, the old dialect).

`expected_*` translate an old entry into mmdet 3 terms, and the result must *equal* the config's section: a
number that is changed, missing or added fails.
"""

import copy
import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

ROOT = Path(__file__).parents[2]
OFFICIAL = json.loads((ROOT / 'tests/data/official_hyperparameters.json').read_text())


@pytest.fixture(params=sorted(OFFICIAL))
def pair(request):
    """(official entry, our config)"""
    return copy.deepcopy(OFFICIAL[request.param]), Config.fromfile(ROOT / f'configs/{request.param}.py')


def plain(value):
    """Config values as JSON has them: dicts, lists (no tuples), numbers."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def step(pipeline, kind):
    """The one transform of that type, without its type."""
    (found,) = (t for t in pipeline if t['type'] == kind)
    return {key: value for key, value in found.items() if key != 'type'}


# Model


def expected_model(old):
    model = old['model']
    pipeline = old['data']['train']['pipeline']
    norm, pad = step(pipeline, 'Normalize'), step(pipeline, 'Pad')
    preprocessor = dict(mean=norm['mean'], std=norm['std'], bgr_to_rgb=norm['to_rgb'])
    preprocessor.update(
        type='DetDataPreprocessor',
        pad_size_divisor=pad['size_divisor'],
        pad_mask=step(pipeline, 'LoadAnnotations')['with_mask'],
    )
    return dict(model, data_preprocessor=preprocessor)


def test_model(pair):
    old, cfg = pair
    assert plain(cfg.model) == expected_model(old)


@pytest.mark.parametrize('split', ['val', 'test'])
def test_one_preprocessor_serves_training_and_testing(pair, split):
    old, _ = pair
    train, (_, test) = old['data']['train']['pipeline'], old['data'][split]['pipeline']
    assert step(test['transforms'], 'Normalize') == step(train, 'Normalize')
    assert step(test['transforms'], 'Pad') == step(train, 'Pad')


# Data


def expected_pipeline(pipeline):
    """One old pipeline, a test pipeline's MultiScaleFlipAug unrolled, in the new transforms."""
    new = []
    for transform in pipeline:
        args = {key: value for key, value in transform.items() if key != 'type'}
        kind = transform['type']
        if kind == 'MultiScaleFlipAug':
            assert args['flip'] is False
            inner = [t for t in args['transforms'] if t['type'] != 'RandomFlip']  # it does nothing without flip
            inner[0] = dict(inner[0], img_scale=args['img_scale'])
            assert inner[0]['type'] == 'Resize'
            new += expected_pipeline(inner)
            # The new evaluators get the ground truth from the pipeline, in the size of the original image.
            new.insert(-1, dict(type='LoadAnnotations', with_bbox=True, with_mask=True))
        elif kind == 'Resize':
            args['scale'] = args.pop('img_scale')
            args.setdefault('keep_ratio', True)
            new.append(dict(args, type='RandomResize' if 'ratio_range' in args else 'Resize'))
        elif kind == 'RandomFlip':
            new.append(dict(type=kind, prob=args['flip_ratio']))
        elif kind == 'Collect':
            new.append(dict(type='PackDetInputs'))
        elif kind not in ('Normalize', 'Pad', 'DefaultFormatBundle', 'ImageToTensor'):  # now the data_preprocessor's
            new.append(transform)
    return new


def expected_dataset(old, split):
    data = old['data'][split]
    root = 'data/coco/'
    dataset = dict(
        type=data['type'],
        pipeline=expected_pipeline(data['pipeline']),
        data_root=root,
        ann_file=data['ann_file'].removeprefix(root),
        data_prefix=dict(img=data['img_prefix'].removeprefix(root)),
    )
    # What mmdet 2 did for every training set without being told.
    dataset.update(
        dict(filter_cfg=dict(filter_empty_gt=True, min_size=32)) if split == 'train' else dict(test_mode=True)
    )
    return dataset


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_data(pair, split):
    old, cfg = pair
    loader = plain(cfg[f'{split}_dataloader'])
    loader['dataset']['pipeline'][-1].pop('meta_keys', None)
    assert loader['dataset'] == expected_dataset(old, split)
    assert loader['batch_size'] == (old['data']['samples_per_gpu'] if split == 'train' else 1)
    assert loader['num_workers'] == old['data']['workers_per_gpu']
    assert loader['sampler']['shuffle'] is (split == 'train')


def test_evaluation(pair):
    old, cfg = pair
    wanted, evaluator = old['evaluation'], plain(cfg.val_evaluator)
    assert evaluator == dict(
        type='CocoMetric',
        ann_file=old['data']['val']['ann_file'],
        metric=wanted['metric'],
        classwise=wanted['classwise'],
    )
    assert cfg.test_evaluator == cfg.val_evaluator
    assert cfg.train_cfg.val_interval == wanted.get('interval', 1)


# Schedule


def test_optimizer(pair):
    old, cfg = pair
    optimizer = dict(old['optimizer'])
    # num_layers and depths are the model's and read from there; that they agree is all that is left to say here.
    paramwise_cfg = dict(optimizer.pop('paramwise_cfg'))
    assert paramwise_cfg.pop('depths') == plain(cfg.model.backbone.depths)
    assert paramwise_cfg.pop('num_layers') == sum(cfg.model.backbone.depths)
    expected = dict(
        type='OptimWrapper', constructor=optimizer.pop('constructor'), paramwise_cfg=paramwise_cfg, optimizer=optimizer
    )
    if old['optimizer_config'].get('grad_clip'):
        expected['clip_grad'] = old['optimizer_config']['grad_clip']
    assert plain(cfg.optim_wrapper) == expected


def official_lr(old, iteration, epoch):
    """The learning rate as mmcv 1.x computes it, in closed form."""
    policy, lr = old['lr_config'], old['optimizer']['lr']
    lr *= 0.1 ** sum(epoch >= milestone for milestone in policy['step'])
    if iteration < policy['warmup_iters']:
        lr *= 1 - (1 - iteration / policy['warmup_iters']) * (1 - policy['warmup_ratio'])
    return lr


def test_learning_rate_curve(pair):
    """Step by step the official curve."""
    old, cfg = pair
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    wrapper = OptimWrapper(optimizer)
    schedulers = [PARAM_SCHEDULERS.build(item, default_args=dict(optimizer=wrapper)) for item in cfg.param_scheduler]
    epoch_length = old['lr_config']['warmup_iters'] + 7
    iterations = old['runner']['max_epochs'] * epoch_length
    for iteration in range(iterations):
        expected = official_lr(old, iteration, iteration // epoch_length)
        assert optimizer.param_groups[0]['lr'] == pytest.approx(expected, rel=1e-9, abs=0), f'iteration {iteration}'
        wrapper.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (iteration + 1) % epoch_length == 0:
                scheduler.step()


def test_length_and_checkpoints(pair):
    old, cfg = pair
    runner, saved, hook = old['runner'], old['checkpoint_config'], cfg.default_hooks.checkpoint
    assert (cfg.train_cfg.type, cfg.train_cfg.max_epochs) == ('EpochBasedTrainLoop', runner['max_epochs'])
    assert cfg.param_scheduler[1].milestones == old['lr_config']['step']
    by_epoch = saved.get('by_epoch', True)
    assert cfg.log_processor.by_epoch is hook.by_epoch is by_epoch
    assert (hook.interval, hook.max_keep_ckpts) == (saved['interval'], saved['max_keep_ckpts'])
    assert hook.get('save_last', True) is saved.get('save_last', True)
    # 'auto' was the first metric of the first kind, which mmdet 3 no longer finds: see schedule_1x.py.
    assert (hook.save_best, old['evaluation']['save_best']) == ('coco/bbox_mAP', 'auto')
    assert cfg.load_from == old['load_from']


# The config as a program


def test_dump_and_load_again(pair, tmp_path):
    _, cfg = pair
    cfg.dump(tmp_path / 'config.py')
    assert Config.fromfile(tmp_path / 'config.py').to_dict() == cfg.to_dict()


def test_transforms_evaluator_and_hooks_exist(pair):
    _, cfg = pair
    registry = import_module(f'{cfg.default_scope}.registry')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            assert registry.DATASETS.get(loader.dataset.type)
            for transform in loader.dataset.pipeline:
                registry.TRANSFORMS.build(transform)
        assert registry.METRICS.get(cfg.val_evaluator.type)
        assert registry.VISUALIZERS.get(cfg.visualizer.type)
        for hook in cfg.default_hooks.values():
            assert registry.HOOKS.get(hook.type)


def test_model_builds(pair):
    _, cfg = pair
    cfg.model.backbone.init_cfg = None  # no download
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = import_module(f'{cfg.default_scope}.registry').MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == 'InternImage'
