"""`--cfg-options`: every key is one that something reads, and `data_root` moves the data and nothing else."""

import argparse
import copy
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

import internimage.openmmlab  # noqa: F401  (registers)
from internimage.openmmlab.cfg_options import CfgOptions, ConfigError
from internimage.openmmlab.configuration import load_config, move_data

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
DETECTOR = CONFIGS / 'demo' / 'mask_rcnn_internimage_small_shapes.py'
SEGMENTOR = CONFIGS / 'demo' / 'upernet_internimage_small_shapes.py'

from_file = Config.fromfile


@cache
def read(path: str) -> Config:
    return from_file(path)


@pytest.fixture(autouse=True)
def configs_are_read_once(monkeypatch):
    monkeypatch.setattr(Config, 'fromfile', lambda path: copy.deepcopy(read(path)))


def parsed(*words) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    return parser.parse_args(['--cfg-options', *words] if words else []).cfg_options


def loaded(path, *words) -> Config:
    return load_config(str(path), parsed(*words))


def value_at(cfg: Config, key: str):
    node = cfg
    for part in key.split('.'):
        node = node[int(part)] if isinstance(node, (list, tuple)) else node[part]
    return node


@pytest.mark.parametrize(
    'option, nearest',
    [
        ('train_dataloader.batchsize=7', 'train_dataloader.batch_size'),
        ('val_dataloader.num_worker=1', 'val_dataloader.num_workers'),
        ('model.backbone.depth=[1,1]', 'model.backbone.depths'),
        ('model.backbone.withcp=True', 'model.backbone.with_cp'),  # not stated in the config
        ('backbone.depths=[1,1]', 'model.backbone.depths'),
        ('modle.backbone.depths=[1,1]', 'model.backbone.depths'),
        ('optim_wrapper.lr=1', 'optim_wrapper.optimizer.lr'),
        ('optim_wrapper.clip_grad.maxnorm=1', 'optim_wrapper.clip_grad.max_norm'),
        ('default_hooks.checkpoint.intervall=1', 'default_hooks.checkpoint.interval'),
        ('param_scheduler.0.factor=1', 'param_scheduler.0.start_factor'),
        ('train_dataloader.dataset.data_prefix.imgs=x', 'train_dataloader.dataset.data_prefix.img'),
        ('test_dataloader.dataset.indice=3', 'test_dataloader.dataset.indices'),
        ('load_form=x.pth', 'load_from'),
        ('randomness.sed=1', 'randomness.seed'),
        # Variables of the config file, which its dicts have copied:
        ('num_classes=3', 'model.roi_head.bbox_head.num_classes'),
        ('test_pipeline.1.scale=(32,32)', 'test_dataloader.dataset.pipeline.1.scale'),
    ],
)
def test_a_key_that_nothing_reads(option, nearest):
    key, value = option.split('=')
    with pytest.raises(ConfigError) as error:
        loaded(DETECTOR, option)
    assert str(error.value).startswith(f'config {DETECTOR}: {key} is ')
    assert nearest in str(error.value).split('did you mean ')[1].split('?')[0].split(' or ')
    assert str(error.value).endswith(f'(To add it all the same: +{option})')
    assert str(value_at(loaded(DETECTOR, f'+{option}'), key)).replace(' ', '') == value


@pytest.mark.parametrize('option', ['foo.bar=1', 'foo=1', 'model.foo.bar.baz=1', 'a..b=1', '.=1', '=1'])
def test_a_key_like_none(option):
    with pytest.raises(ConfigError, match='is no key of the config'):
        loaded(DETECTOR, option)


@pytest.mark.parametrize(
    'option, message',
    [
        ('train_dataloader.dataset.pipeline.99.scale=(1,2)', 'is a list of 5, with the keys 0 to 4'),
        ('train_dataloader.dataset.pipeline.-1.scale=(1,2)', 'is a list of 5, with the keys 0 to 4'),
        ('+param_scheduler.2.begin=3', 'is a list of 2, with the keys 0 to 1'),
        ('train_dataloader.dataset.pipeline.scale=1', 'is a list of 5'),
        ('train_cfg.max_epochs.x=1', 'train_cfg.max_epochs is 5, which has no keys'),
        ('+model.type.name=1', "model.type is 'MaskRCNN', which has no keys"),
        ('launcher=pytorch', '--launcher'),
        ('custom_imports.imports=no_such_module', 'no_such_module'),
        ('data_root=a,b', 'data_root must be one folder'),
        ('classes=cat', 'classes must be a list of different names'),
    ],
)
def test_a_place_that_there_is_not(option, message):
    with pytest.raises(ConfigError, match=message):
        loaded(DETECTOR, option)


@pytest.mark.parametrize(
    'option, kinds',
    [
        ('train_cfg.max_epochs=ten', r"is a number \(5\), got a string \('ten'\)"),
        ('train_cfg.max_epochs=True', r'is a number \(5\), got true or false \(True\)'),
        ('optim_wrapper.optimizer.lr=fast', 'is a number'),
        ('model.backbone.with_cp=yes', r'is true or false \(False\), got a string'),  # by the constructor's default
        ('train_dataloader.num_workers=two', 'is a number'),
        ('resume=work_dirs/x.pth', 'is true or false'),
        ('model=3', 'is a dict'),
        ('model.backbone.depths=4', 'is a list'),
        ('model.backbone.depths=[a,b]', 'is a list'),
        ('train_dataloader.dataset.ann_file=7', 'is a string'),
        ('train_dataloader.dataset.pipeline=[1,2]', 'is a list'),
        ('train_dataloader.dataset.pipeline.3.prob=0.5', r'is a list \(\[0.25, 0.25, 0.25\]\), got a number'),
    ],
)
def test_a_value_of_another_type(option, kinds):
    with pytest.raises(ConfigError, match=kinds) as error:
        loaded(DETECTOR, option)
    assert str(error.value).endswith(f'(To set it all the same: +{option})')
    loaded(DETECTOR, f'+{option}')


@pytest.mark.parametrize(
    'option, value',
    [
        ('train_cfg.max_epochs=2', 2),
        ('optim_wrapper.optimizer.lr=1', 1),
        ('model.backbone.depths=[1,1,2,1]', [1, 1, 2, 1]),
        ('train_dataloader.dataset.pipeline.2.scale=(333,200)', (333, 200)),
        ('train_dataloader.dataset.pipeline.3.prob=[0.5,0.1]', [0.5, 0.1]),
        ('param_scheduler.0.start_factor=1', 1),
        ('val_evaluator.metric=bbox', 'bbox'),
        ('train_cfg=None', None),
        ('visualizer.vis_backends.0.type=TensorboardVisBackend', 'TensorboardVisBackend'),
        # What the config does not state, and the constructor or the Runner takes:
        ('model.backbone.with_cp=True', True),
        ('model.data_preprocessor.rgb_to_bgr=False', False),
        ('train_dataloader.drop_last=True', True),
        ('test_dataloader.dataset.indices=20', 20),
        ('train_dataloader.dataset.metainfo.classes=[a,b]', ['a', 'b']),
        ('default_hooks.checkpoint.save_best=auto', 'auto'),
        ('default_hooks.checkpoint.max_keep_ckpts=3', 3),
        ('optim_wrapper.accumulative_counts=2', 2),
        ('optim_wrapper.clip_grad.norm_type=1', 1),
        ('optim_wrapper.optimizer.amsgrad=True', True),
        ('optim_wrapper.paramwise_cfg.norm_decay_mult=0.0', 0.0),
        ('param_scheduler.0.verbose=True', True),
        ('randomness.deterministic=True', True),
        ('load_from=x.pth', 'x.pth'),
        ('resume=True', True),
        ('env_cfg.mp_cfg.mp_start_method=spawn', 'spawn'),
        ('auto_scale_lr.enable=True', True),
        ('auto_scale_lr.base_batch_size=16', 16),
        ('log_processor.window_size=5', 5),
        ('val_evaluator.format_only=True', True),
        ('find_unused_parameters=True', True),
    ],
)
def test_a_key_that_something_reads(option, value):
    assert value_at(loaded(DETECTOR, option), option.split('=')[0]) == value


def test_options_that_belong_together():
    cfg = loaded(DETECTOR, 'optim_wrapper.optimizer.momentum=0.9', 'optim_wrapper.optimizer.type=SGD')
    assert cfg.optim_wrapper.optimizer.momentum == 0.9
    cfg = loaded(DETECTOR, 'optim_wrapper.loss_scale=dynamic', 'optim_wrapper.type=AmpOptimWrapper')
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    cfg = loaded(
        DETECTOR, 'optim_wrapper.optimizer.lr=0.1', 'optim_wrapper.optimizer._delete_=True', 'train_cfg.max_epochs=7'
    )
    assert cfg.optim_wrapper.optimizer == dict(lr=0.1) and cfg.train_cfg.max_epochs == 7
    cfg = loaded(DETECTOR, 'model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=x.pth')
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='x.pth')
    cfg = loaded(DETECTOR, 'custom_hooks.0.type=EmptyCacheHook', 'custom_hooks.1.type=EMAHook')
    assert cfg.custom_hooks == [dict(type='EmptyCacheHook'), dict(type='EMAHook')]
    assert loaded(DETECTOR, 'train_cfg.max_epochs=1', 'train_cfg.max_epochs=2').train_cfg.max_epochs == 2
    with pytest.raises(ConfigError, match='train_cfg'):
        loaded(DETECTOR, 'train_cfg=None', 'train_cfg.max_epochs=1')
    with pytest.raises(ConfigError, match='train_cfg.max_epochs is given twice'):
        loaded(DETECTOR, '+train_cfg.max_epochs=1', 'train_cfg.max_epochs=2')


@pytest.mark.parametrize(
    'word, value',
    [
        ('a=/my data/x=y', '/my data/x=y'),
        ('a=[traffic light, stop sign]', ['traffic light', 'stop sign']),
        ('a=traffic light,car', ['traffic light', 'car']),
        ("a=['traffic light','car']", ['traffic light', 'car']),
        ('a=" x y "', 'x y'),
        ('a=((1, 2.5), [a, (b c, None)])', ((1, 2.5), ['a', ('b c', None)])),
        ('a=', ''),
        ('a=-1e-3', -1e-3),
        ('+a.b=1', 1),
        ('a=True', True),
    ],
)
def test_words(word, value):
    assert parsed(word) == {word.split('=')[0]: value}


@pytest.mark.parametrize('word', ['train_cfg.max_epochs', 'a=[1,2', 'a=(1,2]'])
def test_words_that_are_none(word):
    with pytest.raises(ConfigError, match='KEY=VALUE|brackets'):
        parsed(word)


def test_a_config_that_is_none(tmp_path, monkeypatch):
    (tmp_path / 'mask_rcnn.py').write_text('model = 1 / 0\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match='config mask_rcnn.py: ZeroDivisionError: division by zero'):
        load_config('mask_rcnn.py')
    with pytest.raises(ConfigError, match='config mask_rcn.py does not exist: did you mean mask_rcnn.py?'):
        load_config('mask_rcn.py')
    with pytest.raises(ConfigError, match='config other/thing.py does not exist$'):
        load_config('other/thing.py')


# data_root


def moved(root: str, new: str = '/new/root', **dataset) -> dict:
    evaluator = dataset.pop('evaluator', [])
    cfg = Config(
        dict(
            data_root=root,
            load_from='data/coco/model.pth',
            default_scope='data',
            train_dataloader=dict(dataset=dataset),
            val_evaluator=evaluator,
            model=dict(type='data/coco', backbone=dict(type='data')),
        )
    )
    before = cfg.to_dict()
    move_data(cfg, new)
    assert {key: value for key, value in cfg.to_dict().items() if not key.startswith(('train', 'val'))} == {
        key: value for key, value in before.items() if not key.startswith(('train', 'val'))
    }
    return cfg.to_dict()['train_dataloader']['dataset'] | dict(evaluator=cfg.to_dict()['val_evaluator'])


@pytest.mark.parametrize(
    'root, path, expected',
    [
        ('data/coco', 'data/coco/train.json', '/new/root/train.json'),
        ('data/coco/', 'data/coco/train.json', '/new/root/train.json'),
        ('./data//coco', 'data/coco/train.json', '/new/root/train.json'),
        ('data/coco', './data/coco/images/', '/new/root/images/'),
        ('data/coco', 'data/coco_extra/train.json', 'data/coco_extra/train.json'),
        ('data/coco/', 'data/coconut.json', 'data/coconut.json'),
        ('data/coco', 'other/data/coco/train.json', 'other/data/coco/train.json'),
        ('data\\coco\\', 'data\\coco\\sub\\train.json', '/new/root/sub/train.json'),
        ('data\\coco', 'data/coco/train.json', '/new/root/train.json'),
        ('/data/coco', '/data/coco/train.json', '/new/root/train.json'),
        ('/data/coco', 'data/coco/train.json', 'data/coco/train.json'),
        ('~/coco', '~/coco/train.json', '/new/root/train.json'),
        ('s3://bucket/coco/', 's3://bucket/coco/train.json', '/new/root/train.json'),
        ('d', 'd/train.json', '/new/root/train.json'),
        ('', 'train.json', '/new/root/train.json'),
        ('.', './sub/train.json', '/new/root/sub/train.json'),
        ('./', '../train.json', '../train.json'),
        ('', '/absolute/train.json', '/absolute/train.json'),
        ('', 's3://bucket/train.json', 's3://bucket/train.json'),
    ],
)
def test_paths_at_or_below_the_old_root_move(root, path, expected):
    dataset = moved(
        root,
        type='CocoDataset',
        data_root=root,
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        img_suffix='.png',
        evaluator=[dict(type='CocoMetric', ann_file=path, metric='bbox', outfile_prefix=path)],
    )
    evaluator = dataset.pop('evaluator')
    assert evaluator == [dict(type='CocoMetric', ann_file=expected, metric='bbox', outfile_prefix=path)]
    assert dataset.pop('data_root') == '/new/root'
    assert dataset == dict(
        type='CocoDataset', ann_file='train.json', data_prefix=dict(img='images/'), img_suffix='.png'
    )


def test_every_path_of_every_data_set_moves():
    first = dict(
        type='A', data_root='data/coco/sub/', ann_file='x.json', pipeline=[dict(type='P', db_path='data/coco/db')]
    )
    second = dict(
        type='B', ann_file=['data/coco/a.json', 'data/b.json'], img_prefix='data/coco/images/', proposal_file=''
    )
    third = dict(
        type='C', data_root='data/other', data_prefix=dict(img='data/coco/img', seg=None), seg_map_path='data/coco'
    )
    datasets = dict(type='ConcatDataset', datasets=[first, dict(type='RepeatDataset', dataset=second), third])
    found = moved('data/coco', **datasets)['datasets']
    assert found[0] == first | dict(data_root='/new/root/sub/', pipeline=[dict(type='P', db_path='/new/root/db')])
    assert found[1]['dataset'] == second | dict(
        ann_file=['/new/root/a.json', 'data/b.json'], img_prefix='/new/root/images/'
    )
    assert found[2] == third | dict(data_prefix=dict(img='/new/root/img', seg=None), seg_map_path='/new/root')
    inside = moved('data/coco', 'data/coco/v2', type='A', data_prefix=dict(img_path='data/coco/images'))
    assert inside['data_prefix'] == dict(img_path='data/coco/v2/images')  # and not a second time


def test_an_empty_root_without_one_in_the_data_set():
    found = moved('', type='data', ann_file='a.json', data_prefix=dict(img='images/', seg=''), metric='x', scope='y')
    found.pop('evaluator')
    assert found == dict(
        type='data',
        ann_file='/new/root/a.json',
        data_prefix=dict(img='/new/root/images/', seg=''),
        metric='x',
        scope='y',
    )


def test_a_root_that_nothing_reads():
    with pytest.raises(ConfigError, match="reads from data_root 'data/coco'"):
        moved('data/coco', type='A', data_root='data/other', ann_file='x.json')
    with pytest.raises(ConfigError, match='data_root is no key of the config: did you mean .*dataset.data_root'):
        load_config(str(CONFIGS / '_base_' / 'datasets' / 'coco_instance.py'), {'test_dataloader.data_root': '/x'})


@pytest.mark.parametrize(
    'path', [DETECTOR, SEGMENTOR, CONFIGS / 'lvis' / 'dino_4scale_cbinternimage_h_objects365_lvis_minival_ss.py']
)
def test_a_demo_moves_as_a_whole(path):
    before, after = loaded(path), loaded(path, 'data_root=/new data')
    root = before.data_root
    assert after.data_root == '/new data'
    assert root not in str({key: after[key] for key in after if key.endswith(('loader', 'evaluator', 'model'))})
    assert after.model.to_dict() == before.model.to_dict()
    assert loaded(path, 'data_root=/new', 'test_evaluator.prefix=x').test_evaluator.prefix == 'x'
