"""The segmentation configs against the official ones.

tests/data/official_segmentation.json.gz holds each one resolved, in the dialect of mmseg 0.x. `expected_*` translate an
entry into mmseg 1, and the result must *equal* the config's section: a number that is changed, missing or added fails.
"""

import copy
import functools

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS, VISUALIZERS
from official import ROOT, learning_rates, official_lr, read_entries, step
from official import plain as plain_with_none
from official_models import in_our_dialect

from internimage.checkpoint import ours_to_official

OFFICIAL = read_entries('official_segmentation.json.gz')


@functools.cache
def load(name):
    return Config.fromfile(ROOT / f'configs/{name}.py')


@pytest.fixture(params=sorted(OFFICIAL))
def pair(request):
    """(official entry, our config)"""
    return copy.deepcopy(OFFICIAL[request.param]), copy.deepcopy(load(request.param))


def test_every_official_config_is_here_and_no_other():
    configs = ROOT / 'configs'
    files = [path for folder in {name.split('/')[0] for name in OFFICIAL} for path in (configs / folder).glob('*.py')]
    ours = {str(path.relative_to(configs).with_suffix('')) for path in files}
    assert ours == set(OFFICIAL) and len(ours) == 28


def plain(value):
    """`official.plain`, None and no value being the same."""
    return without_none(plain_with_none(value))


def without_none(value):
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return [without_none(item) for item in value] if isinstance(value, list) else value


def is_mask2former(old):
    return old['model']['type'] == 'EncoderDecoderMask2Former'


# Model


def expected_model(old):
    model, pipeline = old['model'], old['data']['train']['pipeline']
    model['backbone'].setdefault('out_indices', [0, 1, 2, 3])
    if is_mask2former(old):
        # in_index selects all four stages; numbers of things and stuff, which num_classes replaces, are for panoptic
        # segmentation, like all that follows from test_cfg but the windows.
        model['decode_head'].update(train_cfg=model['train_cfg'], test_cfg=None)
        model['test_cfg'] = {key: model['test_cfg'].get(key) for key in ('mode', 'crop_size', 'stride')}
    model = in_our_dialect(model)
    if is_mask2former(old):
        ffn = model['decode_head']['transformer_decoder']['layer_cfg']['ffn_cfg']
        assert ffn.pop('add_identity') is True  # the default
    norm, pad = step(pipeline, 'Normalize'), step(pipeline, 'Pad')
    model['data_preprocessor'] = dict(
        type='SegDataPreProcessor', mean=norm['mean'], std=norm['std'], bgr_to_rgb=norm['to_rgb'], **pad
    )
    return plain(model)


def test_model(pair):
    old, cfg = pair
    assert plain(cfg.model) == expected_model(old)


@pytest.mark.parametrize('split', ['val', 'test'])
def test_the_preprocessor_does_what_the_official_test_pipeline_does(pair, split):
    old, cfg = pair
    norm, found = step(old['data'][split]['pipeline'][1]['transforms'], 'Normalize'), plain(cfg.model.data_preprocessor)
    assert [found[key] for key in ('mean', 'std', 'bgr_to_rgb')] == [norm['mean'], norm['std'], norm['to_rgb']]


# Data


def expected_pipeline(pipeline):
    """One old pipeline, a test pipeline's MultiScaleFlipAug unrolled at its one scale, in the new transforms."""
    new = []
    for transform in pipeline:
        args = {key: value for key, value in transform.items() if key != 'type'}
        kind = transform['type']
        if kind == 'MultiScaleFlipAug':
            inner = [t for t in args['transforms'] if t['type'] != 'RandomFlip']  # without flip it does nothing
            assert inner[0]['type'] == 'Resize'
            inner[0] = dict(inner[0], img_scale=args['img_scale'])
            new += expected_pipeline(inner)
            # The new evaluators get the ground truth from the pipeline, in the size of the original image.
            new.insert(-1, dict(type='LoadAnnotations'))
        elif kind == 'Resize':
            args['scale'] = args.pop('img_scale')
            args.setdefault('keep_ratio', True)
            new.append(dict(args, type='RandomResize' if 'ratio_range' in args else 'Resize'))
        elif kind == 'LoadAnnotations':
            args.pop('reduce_zero_label', None)  # now the data set's: see expected_dataset
            new.append(dict(args, type=kind))
        elif kind == 'Collect':
            new.append(dict(type='PackSegInputs'))
        # Normalising and padding are now the data_preprocessor's, masks per class the head's, the classes of Mapillary
        # the data set's.
        elif kind not in ('Normalize', 'Pad', 'DefaultFormatBundle', 'ImageToTensor', 'ToMask', 'MapillaryHack'):
            new.append(transform)
    return new


def expected_dataset(old, split):
    data = old['data'][split]
    as_cityscapes = any(t['type'] == 'MapillaryHack' for t in data['pipeline'])
    assert as_cityscapes is (data['type'] == 'MapillaryDataset')
    dataset = dict(
        type='MapillaryCityscapesDataset' if as_cityscapes else data['type'],
        data_root=data['data_root'],
        pipeline=expected_pipeline(data['pipeline']),
    )
    # mmseg 0.x read the labels for training by the pipeline, those for the score by the data set, whose own default is
    # what these two types need: 0 is ignored.
    reduce_zero_label = step(old['data']['train']['pipeline'], 'LoadAnnotations').get('reduce_zero_label')
    assert data.get('reduce_zero_label') in (None, reduce_zero_label)
    if reduce_zero_label:
        dataset['reduce_zero_label'] = True
    if 'split' in data:
        dataset['ann_file'] = data['split']
    images, labels = data['img_dir'], data['ann_dir']
    if isinstance(images, str):
        return dict(dataset, data_prefix=dict(img_path=images, seg_map_path=labels))
    prefixes = [dict(img_path=image, seg_map_path=label) for image, label in zip(images, labels, strict=True)]
    return dict(type='ConcatDataset', datasets=[dict(dataset, data_prefix=prefix) for prefix in prefixes])


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_data(pair, split):
    old, cfg = pair
    loader = plain(cfg[f'{split}_dataloader'])
    assert loader['dataset'] == expected_dataset(old, split)
    assert loader['batch_size'] == (old['data']['samples_per_gpu'] if split == 'train' else 1)
    assert loader['num_workers'] == old['data']['workers_per_gpu']
    assert loader['sampler']['shuffle'] is (split == 'train')


def test_augmentation_at_test_time(pair):
    old, cfg = pair
    args = step(old['data']['test']['pipeline'], 'MultiScaleFlipAug')
    if not args['flip']:
        assert 'img_ratios' not in args and 'tta_pipeline' not in cfg
        return
    resize, to_multiple, flip = args['transforms'][:3]
    assert (resize['type'], to_multiple['type'], flip['type']) == ('Resize', 'ResizeToMultiple', 'RandomFlip')
    scales = [[int(side * ratio) for side in args['img_scale']] for ratio in args['img_ratios']]
    choices = [
        [dict(resize, scale=scale) for scale in scales],
        [to_multiple],
        [dict(flip, prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
        [dict(type='LoadAnnotations')],
        [dict(type='PackSegInputs')],
    ]
    assert plain(cfg.tta_pipeline) == [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=choices)]
    assert cfg.tta_model == dict(type='SegTTAModel')


def test_evaluation(pair):
    old, cfg = pair
    assert plain(cfg.val_evaluator) == dict(type='IoUMetric', iou_metrics=[old['evaluation']['metric']])
    assert cfg.test_evaluator == cfg.val_evaluator
    assert cfg.train_cfg.val_interval == old['evaluation']['interval']


# Schedule


def test_optimizer(pair):
    old, cfg = pair
    optimizer = dict(old['optimizer'])
    # num_layers and depths are the model's and read from there; that they agree is all that is left to say here.
    paramwise_cfg = dict(optimizer.pop('paramwise_cfg'))
    assert paramwise_cfg.pop('depths') == plain(cfg.model.backbone.depths)
    assert paramwise_cfg.pop('num_layers') == sum(cfg.model.backbone.depths)
    assert paramwise_cfg.pop('offset_lr_scale', 1.0) == 1.0  # the default
    expected = dict(
        type='OptimWrapper', constructor=optimizer.pop('constructor'), paramwise_cfg=paramwise_cfg, optimizer=optimizer
    )
    if old['optimizer_config'].get('grad_clip'):
        expected['clip_grad'] = old['optimizer_config']['grad_clip']
    assert plain(cfg.optim_wrapper) == expected


@pytest.mark.parametrize(
    'name',
    [
        'ade20k/upernet_internimage_t_512_160k_ade20k',
        'ade20k/upernet_internimage_xl_640_160k_ade20k',
        'ade20k/upernet_internimage_h_896_160k_ade20k',
        'ade20k/mask2former_internimage_h_896_80k_cocostuff2ade20k_ss',
    ],
)
def test_learning_rate_and_weight_decay_of_every_parameter(name):
    """The official rule's own output, {official name: [learning rate, weight decay]}."""
    golden = read_entries('optimizer_groups.json.gz')[name]
    cfg = copy.deepcopy(load(name))
    cfg.model.backbone.init_cfg = None
    if not any('gamma' in parameter for parameter in golden):  # that of T was made without layer_scale
        cfg.model.backbone.layer_scale = None
    if 'mask2former' in name:  # and this one with the layers of the small fixture
        cfg.model.decode_head.pixel_decoder.encoder.num_layers = 2
        cfg.model.decode_head.transformer_decoder.num_layers = 3
    with DefaultScope.overwrite_default_scope('mmseg'), torch.device('meta'):
        model = MODELS.build(cfg.model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: [group['lr'], group['weight_decay']]
        for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
        for parameter in group['params']
    }
    found = ours_to_official(found)
    assert found.keys() == golden.keys()
    for parameter, value in golden.items():
        assert found[parameter] == pytest.approx(value, rel=1e-9), parameter


def test_learning_rate_curve(pair):
    """Step by step the official curve in its first part (it has one slope, and an error of one iteration in its length
    shows there, at 1e-7 of the value)."""
    old, cfg = pair
    policy = old['lr_config']
    assert (policy['policy'], policy['warmup'], policy['by_epoch']) == ('poly', 'linear', False)
    iterations = policy['warmup_iters'] + 100
    for iteration, found in learning_rates(cfg, iterations, iterations):
        assert found == pytest.approx(official_lr(old, iteration, 0), rel=1e-9, abs=0), f'iteration {iteration}'


def test_length_and_checkpoints(pair):
    old, cfg = pair
    saved, hook = old['checkpoint_config'], cfg.default_hooks.checkpoint
    assert old['runner'] == dict(type='IterBasedRunner', max_iters=cfg.train_cfg.max_iters)
    assert cfg.train_cfg.type == 'IterBasedTrainLoop'
    assert cfg.log_processor.by_epoch is hook.by_epoch is saved['by_epoch'] is False
    assert (hook.interval, hook.max_keep_ckpts) == (saved['interval'], saved['max_keep_ckpts'])
    assert hook.save_best == old['evaluation']['save_best']
    assert cfg.load_from == old['load_from']


# The config as a program


def test_dump_and_load_again(pair, tmp_path):
    _, cfg = pair
    cfg.dump(tmp_path / 'config.py')
    assert Config.fromfile(tmp_path / 'config.py').to_dict() == cfg.to_dict()


def test_transforms_evaluator_and_hooks_exist(pair):
    _, cfg = pair
    with DefaultScope.overwrite_default_scope('mmseg'):
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            for dataset in loader.dataset.get('datasets', [loader.dataset]):
                assert DATASETS.get(dataset.type)
                for transform in dataset.pipeline:
                    TRANSFORMS.build(transform)
        for transform in cfg.get('tta_pipeline', []):
            TRANSFORMS.build(transform)
        assert METRICS.get(cfg.val_evaluator.type)
        assert VISUALIZERS.get(cfg.visualizer.type)
        for hook in cfg.default_hooks.values():
            assert HOOKS.get(hook.type)


def test_model_builds(pair):
    _, cfg = pair
    cfg.model.backbone.init_cfg = None  # no download
    with DefaultScope.overwrite_default_scope('mmseg'), torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == 'InternImage'
    assert model.num_classes == cfg.model.decode_head.num_classes
