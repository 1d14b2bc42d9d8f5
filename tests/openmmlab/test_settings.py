"""Settings by name move every place of a config that depends on them, and leave official configs as they are."""

from pathlib import Path

import pytest
from mmengine.config import Config

import internimage.openmmlab  # noqa: F401  (registers)
from internimage.openmmlab.cfg_options import ConfigError
from internimage.openmmlab.configuration import apply_variables, load_config
from internimage.openmmlab.nodes import config_folder
from internimage.openmmlab.settings import SETTINGS, put_setting, stated_names

CONFIGS = sorted(config_folder().glob('[!_]*/*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_variables_of_the_configs_say_what_is_in_force(path):
    cfg = Config.fromfile(path)
    before = cfg._cfg_dict.to_dict()
    for name, setting in SETTINGS.items():
        value = setting.get(cfg)
        if name in cfg and value is not None:
            assert str(cfg[name]) == str(value), name
        if value is not None and name != 'label_values':
            put_setting(cfg, name, value)
            assert cfg.pop(name) == (tuple(value) if setting.kind == 'size' else value)
    after = cfg._cfg_dict.to_dict()
    assert {key: before[key] for key in after} == after
    assert before.keys() - after.keys() <= SETTINGS.keys()


def test_image_scale_of_a_detector():
    cfg = load_config('mask_rcnn_internimage_t_fpn_1x_coco', {'image_scale': [640, 480]})
    train, test = cfg.train_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline
    assert train[2].scale == test[1].scale == cfg.val_dataloader.dataset.pipeline[1].scale == (640, 480)
    assert cfg.image_scale == cfg.train_pipeline[2].scale == (640, 480)


def test_other_sizes_keep_their_relation_to_the_image_scale():
    # 1333 x 800 becomes 2666 x 400: longer sides are doubled, shorter ones halved, in the order in which they stand.
    cfg = load_config('mask_rcnn_internimage_t_fpn_3x_coco', {'image_scale': [2666, 400]})
    whole, part = cfg.train_dataloader.dataset.pipeline[3].transforms
    assert whole[0].scales[0] == (240, 2666) and whole[0].scales[-1] == (400, 2666)
    assert part[0].scales[0] == (200, 2666)
    assert part[1].crop_size == (192, 1200)
    cfg = load_config('dino_4scale_internimage_h_objects365_coco_ss', {'image_scale': [1000, 500]})
    assert cfg.train_dataloader.dataset.pipeline[3].scale == [(1000, 300), (1000, 900)]


def test_crop_size_of_a_segmentor():
    cfg = load_config('mask2former_internimage_h_1024x1024_80k_mapillary2cityscapes', {'crop_size': [256, 512]})
    crops = [each.pipeline[3].crop_size for each in cfg.train_dataloader.dataset.datasets]
    assert {tuple(crop) for crop in crops} == {(256, 512)}
    assert cfg.model.data_preprocessor.size == cfg.model.test_cfg.crop_size == (256, 512)
    assert cfg.model.test_cfg.stride == (128, 256)  # (512, 512) of (1024, 1024)
    assert cfg.image_scale == (2048, 1024)


def test_length_of_the_training():
    cfg = load_config('mask_rcnn_internimage_t_fpn_1x_coco', {'max_epochs': 36, 'lr': 2e-5, 'batch_size': 3})
    assert cfg.param_scheduler[1].milestones == [24, 33]
    assert cfg.train_cfg.max_epochs == 36 and cfg.optim_wrapper.optimizer.lr == 2e-5
    assert cfg.train_dataloader.batch_size == 3 and cfg.val_dataloader.batch_size == 1
    cfg = load_config('upernet_internimage_t_512_160k_ade20k', {'max_iters': 1000})
    warmup, poly = cfg.param_scheduler
    assert (warmup.end, poly.end, cfg.train_cfg.val_interval) == (101, 1001, 1000)
    cfg = load_config('mask_rcnn_internimage_small_nuclei', {'max_epochs': 2, 'warmup_iters': 7})
    assert cfg.param_scheduler[1].T_max == 2 and cfg.param_scheduler[0].end == 8


def test_ignore_index_and_anchors():
    cfg = load_config('upernet_internimage_t_512_160k_ade20k', {'ignore_index': 11})
    heads = cfg.model.decode_head, cfg.model.auxiliary_head, cfg.val_evaluator, cfg.train_dataloader.dataset
    assert [each.ignore_index for each in heads] == [11] * 4
    assert cfg.model.data_preprocessor.seg_pad_val == cfg.train_dataloader.dataset.pipeline[3].ignore_index == 11
    cfg = load_config('mask_rcnn_internimage_t_fpn_1x_coco', {'anchor_scales': 4, 'anchor_ratios': [0.2, 1, 5]})
    assert cfg.model.rpn_head.anchor_generator['scales'] == [4]
    assert cfg.model.rpn_head.anchor_generator['ratios'] == [0.2, 1, 5]


def test_a_key_with_dots_comes_last_and_the_variable_says_so():
    options = {'batch_size': 8, 'train_dataloader.batch_size': 3}
    cfg = load_config('mask_rcnn_internimage_t_fpn_1x_coco', options)
    assert cfg.train_dataloader.batch_size == cfg.batch_size == 3
    apply_variables(cfg)
    assert cfg.train_dataloader.batch_size == 3


OWN = """
_base_ = 'internimage::coco/mask_rcnn_internimage_t_fpn_1x_coco.py'
classes = ('a', 'b')
data_root = 'mine/'
image_scale = (320, 240)
train_ann_file = '/elsewhere/train.json'
val_ann_file = 'val.json'
train_images = val_images = 'pictures/'
lr = 5e-5
"""


def test_a_file_of_the_user_states_them_at_its_top(tmp_path):
    (tmp_path / 'own.py').write_text(OWN)
    cfg = load_config(str(tmp_path / 'own.py'))
    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    assert (train.data_root, train.ann_file, train.data_prefix.img) == ('mine/', '/elsewhere/train.json', 'pictures/')
    assert (test.data_root, test.ann_file, test.data_prefix.img) == ('mine/', 'val.json', 'pictures/')
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == 'mine/val.json'
    assert train.pipeline[2].scale == test.pipeline[1].scale == (320, 240)
    assert cfg.optim_wrapper.optimizer.lr == 5e-5
    assert cfg.model.roi_head.bbox_head.num_classes == 2
    # The nearest file counts; a command line comes last.
    (tmp_path / 'child.py').write_text("_base_ = './own.py'\nlr = 7e-5\n")
    cfg = load_config(str(tmp_path / 'child.py'), {'image_scale': [160, 120]})
    assert cfg.optim_wrapper.optimizer.lr == 7e-5
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (160, 120)
    notebook = Config.fromfile(tmp_path / 'child.py')
    apply_variables(notebook)
    assert notebook.test_dataloader.dataset.pipeline[1].scale == (320, 240)


def test_files_that_stand_on_no_config_of_the_package_keep_their_variables(tmp_path):
    (tmp_path / 'other.py').write_text('batch_size = 64\ntrain_dataloader = dict(batch_size=2)\nmodel = dict()\n')
    assert stated_names(str(tmp_path / 'other.py')) == (set(), None)
    assert load_config(str(tmp_path / 'other.py')).train_dataloader.batch_size == 2


@pytest.mark.parametrize(
    ('config', 'options', 'message'),
    [
        ('mask_rcnn_internimage_t_fpn_1x_coco', {'max_iters': 10}, 'trains by epochs: max_epochs'),
        ('upernet_internimage_t_512_160k_ade20k', {'max_epochs': 10}, 'trains by iterations: max_iters'),
        ('mask_rcnn_internimage_t_fpn_1x_coco', {'crop_size': 10}, 'trains on whole images: image_scale'),
        ('dino_4scale_internimage_t_1x_coco_layer_wise_lr', {'anchor_scales': [4]}, 'has no anchors'),
        ('mask_rcnn_internimage_t_fpn_1x_coco', {'batch_size': 0}, 'a whole number of at least 1, got 0'),
        ('mask_rcnn_internimage_t_fpn_1x_coco', {'lr': 'fast'}, "lr must be a number above 0, got 'fast'"),
        ('mask_rcnn_internimage_t_fpn_1x_coco', {'image_scale': [1, 2, 3]}, 'must be two numbers of pixels'),
    ],
)  # fmt: skip
def test_wrong_values(config, options, message):
    with pytest.raises(ConfigError, match=message):
        load_config(config, options)


def test_an_unknown_base_of_the_package(tmp_path):
    (tmp_path / 'own.py').write_text("_base_ = 'internimage::mask_rcnn_internimage_t_fpn_9x_coco'\n")
    with pytest.raises(ConfigError, match='does not exist: did you mean .*mask_rcnn_internimage_t_fpn_1x_coco'):
        load_config(str(tmp_path / 'own.py'))


def test_the_settings_are_documented():
    text = (Path(__file__).resolve().parents[2] / 'docs' / 'own_data.md').read_text()
    assert [name for name in SETTINGS if f'`{name}`' not in text] == []


def test_label_maps_of_ones_own(tmp_path):
    (tmp_path / 'own.py').write_text(
        "_base_ = 'internimage::upernet_internimage_t_512_160k_ade20k'\nclasses = ('no', 'yes')\n"
        "label_values = [0, 255]\nlabel_map_suffix = '_mask.png'\nval_label_maps = 'maps'\nignored_values = [7]\n"
    )
    cfg = load_config(str(tmp_path / 'own.py'))
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert {train.type, val.type, cfg.test_dataloader.dataset.type} == {'LabelMapDataset'}
    assert 'reduce_zero_label' not in train and (train.label_values, train.ignored_values) == ([0, 255], [7])
    assert train.seg_map_suffix == '_mask.png' and val.data_prefix.seg_map_path == 'maps'
    assert cfg.test_dataloader.dataset.data_prefix.seg_map_path == 'maps'
    (tmp_path / 'indices.py').write_text("_base_ = './own.py'\nlabel_values = []\n")
    assert load_config(str(tmp_path / 'indices.py')).train_dataloader.dataset.label_values is None
