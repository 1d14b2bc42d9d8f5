"""`classes`, stated once in a config, sets every head and data set."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

import internimage.openmmlab  # noqa: F401  (registers)
from internimage.openmmlab.checkpoint import build_on_meta, class_layers
from internimage.openmmlab.configuration import apply_classes, leaf_datasets

FINETUNE = sorted((Path(__file__).resolve().parents[2] / 'configs' / 'finetune').glob('*.py'))


def test_every_head_and_data_set():
    head = dict(type='A', num_classes=80)
    cfg = Config(
        dict(
            classes=['cat', 'dog', 'cow'],
            model=dict(
                roi_head=dict(bbox_head=[head, head], mask_head=dict(head, loss_mask=dict(type='L'))),
                rpn_head=dict(type='RPNHead'),
                decode_head=dict(
                    num_classes=150,
                    num_things_classes=100,
                    num_stuff_classes=50,
                    loss_cls=dict(class_weight=[1.0] * 150 + [0.1]),
                ),
            ),
            train_dataloader=dict(
                dataset=dict(type='RepeatDataset', dataset=dict(type='X', metainfo=dict(classes='ab')))
            ),
            test_dataloader=dict(
                dataset=dict(type='C', datasets=[dict(type='X'), dict(metainfo=dict(palette=[[1, 2, 3]]))])
            ),
        )
    )
    apply_classes(cfg)
    model = cfg.model
    assert [node.num_classes for node in (*model.roi_head.bbox_head, model.roi_head.mask_head, model.decode_head)] == [
        3
    ] * 4
    assert (model.decode_head.num_things_classes, model.decode_head.num_stuff_classes) == (3, 0)
    assert model.decode_head.loss_cls.class_weight == [1.0, 1.0, 1.0, 0.1]
    assert 'num_classes' not in model.rpn_head
    datasets = [cfg.train_dataloader.dataset.dataset, *cfg.test_dataloader.dataset.datasets]
    assert [dataset.metainfo for dataset in datasets] == [dict(classes=('cat', 'dog', 'cow'))] * 3


def test_a_config_without_classes_is_left_alone():
    cfg = Config(dict(model=dict(num_classes=80)))
    apply_classes(cfg)
    assert cfg.model.num_classes == 80


@pytest.mark.parametrize('classes', ['cat', [], ['cat', 'cat'], 3])
def test_not_a_list_of_names(classes):
    with pytest.raises(ValueError, match='classes must be a list of different names, got '):
        apply_classes(Config(dict(classes=classes, model=dict())))


@pytest.mark.parametrize('path', FINETUNE, ids=lambda path: path.stem)
def test_configs_of_the_walk_through(path, tmp_path):
    """What docs/finetuning.md says of them: `classes` alone makes the heads; and they can be dumped."""
    cfg = Config.fromfile(path)
    before = cfg.model.to_dict()
    apply_classes(cfg)
    assert cfg.model.to_dict() != before
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert [leaf.metainfo.classes for leaf in leaf_datasets(loader.dataset)] == [cfg.classes]
        assert loader.dataset.data_root == cfg.data_root
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        shapes = {name: tuple(value.shape) for name, value in build_on_meta(cfg.model).state_dict().items()}
        names = class_layers(cfg.model)
    outputs = {shapes[name][0] for name in names if 'fc_reg' not in name}
    assert names and outputs <= {len(cfg.classes), len(cfg.classes) + 1}
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
