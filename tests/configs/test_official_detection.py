"""The detection configs against the official ones (tests/data/official_detection.json.gz, the dialect of mmdet 2).

`expected_*` translate an official entry into mmdet 3, and the result must *equal* the config's section: a number that
is changed, missing or added fails.
"""

import copy
import functools

import pytest
import torch
from mmdet.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS, VISUALIZERS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from official import ROOT, learning_rates, official_lr, plain, read_entries, step
from official_models import in_our_dialect

import internimage.openmmlab  # noqa: F401  (registers)
from internimage.openmmlab.configuration import load_config

OFFICIAL = read_entries('official_detection.json.gz')
DATA_ROOTS = ('data/coco/', 'data/lvis_v1/', 'data/OpenImages/', 'data/VOCdevkit/', 'data/CrowdHuman/')
SPLITS = ['train', 'val', 'test']


@functools.cache
def load(name):
    return Config.fromfile(ROOT / f'configs/{name}.py')


@pytest.fixture(params=sorted(OFFICIAL))
def pair(request):
    """(official entry, our config)"""
    old = copy.deepcopy(OFFICIAL[request.param])
    if old['data']['train']['type'] in ('RepeatDataset', 'ClassBalancedDataset'):
        # mmdet 2 hands a wrapper nothing but its own options: a pipeline beside them was never used.
        old['data']['train'].pop('pipeline', None)
    return old, copy.deepcopy(load(request.param))


def test_every_official_config_is_here():
    assert len(OFFICIAL) == 23
    folders = {name.split('/')[0] for name in OFFICIAL} - {'coco'}  # which has configs of our own, too
    ours = {
        f'{path.parent.name}/{path.stem}' for folder in folders for path in (ROOT / 'configs' / folder).glob('*.py')
    }
    assert ours == {name for name in OFFICIAL if not name.startswith('coco/')}


def train_pipeline(old):
    train = old['data']['train']
    return train.get('dataset', train)['pipeline']


def is_rcnn(old):
    return 'roi_head' in old['model']


# Model


def expected_model(old):
    model = old['model']
    norm, pad = step(train_pipeline(old), 'Normalize'), step(train_pipeline(old), 'Pad')
    preprocessor = dict(
        type='DetDataPreprocessor',
        mean=norm['mean'],
        std=norm['std'],
        bgr_to_rgb=norm['to_rgb'],
        pad_size_divisor=pad['size_divisor'],
    )
    model['backbone'].pop('use_dcn_v4_op', None)  # see the config of that name
    if is_rcnn(old):
        model.pop('pretrained', None)  # a left-over ResNet address; the backbone's init_cfg is what is loaded
        preprocessor['pad_mask'] = step(train_pipeline(old), 'LoadAnnotations').get('with_mask', False)
        return dict(model, data_preprocessor=preprocessor)

    # DINO
    model['train_cfg'].pop('snip_cfg', None), model['train_cfg'].pop('fed_loss_cfg', None)  # see dino_4scale_large.py
    head = model['bbox_head']
    assert head['transformer'].pop('two_stage_num_proposals') == head['num_query']
    assert head['dn_cfg'].pop('type') == 'CdnQueryGenerator'
    head['dn_cfg']['hidden_dim'] = 2 * head['positional_encoding']['num_feats']
    checkpointed = set()
    for part in ('encoder', 'decoder'):
        layer = head['transformer'][part]['transformerlayers']
        attention = layer['attn_cfgs'] if part == 'encoder' else layer['attn_cfgs'][1]
        attention.setdefault('num_levels', 4)  # the default
        ffn = layer.setdefault('ffn_cfgs', {})
        # EfficientFFN is an FFN whose `use_checkpoint` works: FFN takes the option and drops it.
        assert ffn.pop('type', 'FFN') in ('FFN', 'EfficientFFN') and ffn.pop('num_fcs', 2) == 2
        assert ffn.pop('act_cfg', dict(type='ReLU', inplace=True)) == dict(type='ReLU', inplace=True)
        checkpointed.add(ffn.pop('use_checkpoint', False))
        for name, value in dict(
            embed_dims=attention['embed_dims'],
            feedforward_channels=layer['feedforward_channels'],
            ffn_drop=layer['ffn_dropout'],
        ).items():
            assert ffn.setdefault(name, value) == value
    model = in_our_dialect(model)
    model['data_preprocessor'] = preprocessor
    (model['ffn_with_cp'],) = checkpointed
    return model


def test_model(pair):
    old, cfg = pair
    found, expected = plain(cfg.model), plain(expected_model(old))
    if 'roi_head' in found:
        found['roi_head'] = {name: part for name, part in found['roi_head'].items() if part is not None}
    if not is_rcnn(old):
        found.setdefault('ffn_with_cp', False)
    assert found == expected


@pytest.mark.parametrize('split', ['val', 'test'])
def test_the_preprocessor_does_what_the_official_test_pipeline_does(pair, split):
    old, cfg = pair
    test = old['data'][split]['pipeline'][1]['transforms']
    norm, found = step(test, 'Normalize'), plain(cfg.model.data_preprocessor)
    expected = [norm['mean'], norm['std'], norm['to_rgb'], step(test, 'Pad')['size_divisor']]
    assert [found[key] for key in ('mean', 'std', 'bgr_to_rgb', 'pad_size_divisor')] == expected


# Data


def expected_pipeline(pipeline, with_mask):
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
            new += expected_pipeline(inner, with_mask)
            # The new evaluators get the ground truth from the pipeline, in the size of the original image.
            new.insert(-1, dict(type='LoadAnnotations', with_bbox=True, with_mask=with_mask))
        elif kind == 'Resize':
            scales, mode = args['img_scale'], args.get('multiscale_mode')
            if mode == 'value':
                new.append(dict(type='RandomChoiceResize', scales=scales, keep_ratio=args['keep_ratio']))
            elif mode == 'range':
                new.append(dict(type='RandomResize', scale=scales, keep_ratio=args['keep_ratio']))
            else:
                new.append(dict(type='Resize', scale=scales, keep_ratio=args['keep_ratio']))
            assert set(args) <= {'img_scale', 'multiscale_mode', 'keep_ratio', 'override'}
        elif kind == 'AutoAugment':
            policies = [expected_pipeline(policy, with_mask) for policy in args['policies']]
            new.append(dict(type='RandomChoice', transforms=policies))
        elif kind == 'RandomFlip':
            new.append(dict(type=kind, prob=args['flip_ratio']))
        elif kind == 'LoadAnnotations':
            args.pop('denorm_bbox', None)  # the new OpenImagesDataset has boxes in pixels
            new.append(dict(dict(args, with_mask=args.get('with_mask', False)), type=kind))
        elif kind == 'Collect':
            new.append(dict(type='PackDetInputs'))
        elif kind not in ('Normalize', 'Pad', 'DefaultFormatBundle', 'ImageToTensor'):  # now the data_preprocessor's
            new.append(transform)
    return new


def relative(path):
    """(root, path below it)"""
    path = path.removeprefix('./')
    (root,) = (root for root in DATA_ROOTS if path.startswith(root))
    return root, path.removeprefix(root)


def expected_dataset(data, training, with_mask):
    kind = data['type']
    if kind == 'RepeatDataset':
        (dataset,) = (data['dataset'],)
        inner = [
            expected_dataset(dict(dataset, ann_file=file, img_prefix=prefix), training, with_mask)
            for file, prefix in zip(dataset['ann_file'], dataset['img_prefix'], strict=True)
        ]
        concatenated = dict(type='ConcatDataset', ignore_keys=['dataset_type'], datasets=inner)
        return dict(type=kind, times=data['times'], dataset=concatenated)
    if kind == 'ClassBalancedDataset':
        inner = expected_dataset(data['dataset'], training, with_mask)
        return dict(type=kind, oversample_thr=data['oversample_thr'], dataset=inner)

    root, ann_file = relative(data['ann_file'])
    _, prefix = relative(data['img_prefix'])
    new = dict(
        type=kind,
        data_root=root,
        ann_file=ann_file,
        data_prefix={'sub_data_root' if kind == 'VOCDataset' else 'img': prefix},
        pipeline=expected_pipeline(data['pipeline'], with_mask),
    )
    if training:  # what mmdet 2 did for every training set without being told; the last two kinds have no filter
        if kind not in ('OpenImagesDataset', 'CrowdHumanDataset'):
            new['filter_cfg'] = dict(filter_empty_gt=data.get('filter_empty_gt', True), min_size=32)
    else:
        new['test_mode'] = True
    if kind == 'LVISV1Dataset':
        new['type'] = 'LVISFasterDataset'  # which does not need the package lvis
    if kind == 'CrowdHumanDataset':  # mmdet's reads the files as they are published, the official one a conversion
        assert data['classes'] == ['person']
        new['ann_file'] = ann_file.replace('.json', '.odgt')
    if kind == 'OpenImagesDataset':
        files = ('label_file', 'hierarchy_file', 'meta_file', 'image_level_ann_file')
        new.update({key: relative(data[key])[1] for key in files if key in data})
        new.setdefault('meta_file', 'annotations/train-image-metas.pkl')  # mmdet 2 could do without in training
    return new


@pytest.mark.parametrize('split', SPLITS)
def test_data(pair, split):
    old, cfg = pair
    loader = plain(cfg[f'{split}_dataloader'])

    def without_meta_keys(dataset):
        for inner in dataset.get('datasets', [dataset['dataset']] if 'dataset' in dataset else []):
            without_meta_keys(inner)
        if 'pipeline' in dataset:
            dataset['pipeline'][-1].pop('meta_keys', None)

    without_meta_keys(loader['dataset'])
    with_mask = 'mask_head' in old['model'].get('roi_head', {})
    assert loader['dataset'] == expected_dataset(old['data'][split], split == 'train', with_mask)
    assert loader['batch_size'] == (old['data']['samples_per_gpu'] if split == 'train' else 1)
    assert loader['num_workers'] == old['data']['workers_per_gpu']
    if split != 'train':
        sampler = dict(type='DefaultSampler', shuffle=False)
    elif 'train_dataloader' in old['data']:
        sampler = dict(type='ClassAwareSampler', **old['data']['train_dataloader']['class_aware_sampler'])
    elif old['runner']['type'] == 'IterBasedRunner':
        sampler = dict(type='InfiniteSampler', shuffle=True)
    else:
        sampler = dict(type='DefaultSampler', shuffle=True)
    assert loader['sampler'] == sampler


def expected_evaluator(old, split):
    wanted, data = old['evaluation'], old['data'][split]
    kind = data['type']
    if kind == 'VOCDataset':  # mmdet 2 takes the way to count from the year, which it takes from the path
        eval_mode = '11points' if 'VOC2007' in data['img_prefix'] else 'area'
        return dict(type='VOCMetric', metric=wanted['metric'], eval_mode=eval_mode)
    if kind == 'OpenImagesDataset':  # the defaults of mmdet 2
        assert wanted['metric'] == 'mAP'
        return dict(type='OpenImagesMetric', iou_thrs=0.5, ioa_thrs=0.5, use_group_of=True, get_supercategory=True)
    if kind == 'CrowdHumanDataset':
        # The official metric is COCO's AP; what is published for the data set, and used here, are AP, MR and JI.
        ann_file = data['ann_file'].replace('.json', '.odgt')
        return dict(type='CrowdHumanMetric', ann_file=ann_file, metric=['AP', 'MR', 'JI'])
    metric = 'LVISFasterMetric' if kind == 'LVISV1Dataset' else 'CocoMetric'
    return dict(type=metric, ann_file=data['ann_file'], metric=wanted['metric'], classwise=wanted['classwise'])


@pytest.mark.parametrize('split', ['val', 'test'])
def test_evaluation(pair, split):
    old, cfg = pair
    assert plain(cfg[f'{split}_evaluator']) == expected_evaluator(old, split)
    assert cfg.train_cfg.val_interval == old['evaluation'].get('interval', 1)


# Schedule


def test_optimizer(pair):
    old, cfg = pair
    optimizer = dict(old['optimizer'])
    paramwise_cfg = dict(optimizer.pop('paramwise_cfg'))
    if 'depths' in paramwise_cfg:
        # num_layers and depths are the model's and read from there; that they agree is all that is left to say here.
        assert paramwise_cfg.pop('depths') == plain(cfg.model.backbone.depths)
        assert paramwise_cfg.pop('num_layers') == sum(cfg.model.backbone.depths)
    expected = dict(
        type='OptimWrapper',
        constructor=optimizer.pop('constructor', 'DefaultOptimWrapperConstructor'),
        paramwise_cfg=paramwise_cfg,
        optimizer=optimizer,
    )
    if old['optimizer_config'].get('grad_clip'):
        expected['clip_grad'] = old['optimizer_config']['grad_clip']
    assert plain(cfg.optim_wrapper) == expected


def test_learning_rate_curve(pair):
    """Step by step the official curve: the warm-up, and every epoch where there are epochs."""
    old, cfg = pair
    epoch_length = old['lr_config']['warmup_iters'] + 7
    iterations = old['runner'].get('max_epochs', 2) * epoch_length
    for iteration, found in learning_rates(cfg, epoch_length, iterations):
        expected = official_lr(old, iteration, iteration // epoch_length)
        assert found == pytest.approx(expected, rel=1e-9, abs=0), f'iteration {iteration}'


METRICS_TO_SAVE_BY = {  # 'auto' was the first metric of the first kind
    'CocoDataset': 'coco/bbox_mAP',
    'VOCDataset': 'pascal_voc/mAP',
    'OpenImagesDataset': 'openimages/mAP',
    'CrowdHumanDataset': 'crowd_human/mAP',
}


def test_length_and_checkpoints(pair):
    old, cfg = pair
    runner, saved, hook = old['runner'], old['checkpoint_config'], cfg.default_hooks.checkpoint
    by_epoch = runner['type'] == 'EpochBasedRunner'
    if by_epoch:
        assert (cfg.train_cfg.type, cfg.train_cfg.max_epochs) == ('EpochBasedTrainLoop', runner['max_epochs'])
        assert cfg.param_scheduler[1].milestones == old['lr_config']['step']
    else:
        assert (cfg.train_cfg.type, cfg.train_cfg.max_iters) == ('IterBasedTrainLoop', runner['max_iters'])
        assert old['lr_config']['step'] == [] and len(cfg.param_scheduler) == 1
    assert cfg.log_processor.by_epoch is hook.by_epoch is by_epoch
    assert (hook.interval, hook.max_keep_ckpts) == (saved['interval'], saved['max_keep_ckpts'])
    assert hook.get('save_last', True) is saved.get('save_last', True)
    auto = METRICS_TO_SAVE_BY.get(old['data']['val']['type']) if 'save_best' in old['evaluation'] else None
    assert hook.get('save_best') == auto
    assert cfg.load_from == old['load_from']


# The config as a program


def test_dump_and_load_again(pair, tmp_path):
    _, cfg = pair
    cfg.dump(tmp_path / 'config.py')
    assert Config.fromfile(tmp_path / 'config.py').to_dict() == cfg.to_dict()


@pytest.mark.parametrize('name', [name for name in sorted(OFFICIAL) if 'coco/' not in name or 'cascade' in name])
def test_the_data_root_moves_as_one(name):
    moved = str(load_config(str(ROOT / f'configs/{name}.py'), {'data_root': '/elsewhere/data/'}).to_dict())
    assert load(name).data_root not in moved.replace('/elsewhere/data/', '')
    assert moved.count('/elsewhere/data/') == str(load(name).to_dict()).count(load(name).data_root) > 3


def test_everything_named_exists_and_the_model_builds(pair):
    old, cfg = pair
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for split in SPLITS:
            dataset = cfg[f'{split}_dataloader'].dataset
            while 'pipeline' not in dataset:
                assert DATASETS.get(dataset.type)
                dataset = dataset.get('dataset') or dataset.datasets[0]
            assert DATASETS.get(dataset.type)
            for transform in dataset.pipeline:
                TRANSFORMS.build(transform)
        assert METRICS.get(cfg.val_evaluator.type)
        assert VISUALIZERS.get(cfg.visualizer.type)
        for hook in cfg.default_hooks.values():
            assert HOOKS.get(hook.type)
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == old['model']['backbone']['type']
