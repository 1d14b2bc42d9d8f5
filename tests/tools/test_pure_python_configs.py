"""Configs in mmengine's pure Python style, `type` a class and `read_base()`, in every tool that reads a config."""

import inspect
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import Registry, root
from test_tools import DETECTOR, RUNTIME, SEGMENTOR, call, data_root, fails, outside  # noqa: F401  (fixtures)

from internimage.openmmlab.configuration import load_config

BACKBONE = "dict(type='InternImage', channels=8, depths=[1, 1, 1, 1], groups=[1, 1, 2, 4], norm_layer='LN')"


def in_pure_python(text: str, scope: str) -> str:
    """The same config, with classes for all types that are registered, and the imports of them."""
    imports = set()

    def by_class(match: re.Match) -> str:
        for registry in vars(root).values():
            if isinstance(registry, Registry):
                found = registry.children.get(scope, registry).get(match[1])
                if inspect.isclass(found):
                    imports.add(f'from {found.__module__} import {found.__name__}')
                    return f'type={found.__name__}'
        return match[0]

    text = re.sub(r"type='(\w+)'", by_class, text.replace(f"default_scope = '{scope}'", 'default_scope = None'))
    return '\n'.join(sorted(imports)) + '\n' + text


@pytest.fixture(scope='module', params=['detector', 'segmentor'])
def trained(request, data_root, tmp_path_factory) -> tuple[str, Path, Path]:  # noqa: F811
    """The task, its config, and the work folder of a training of one epoch by `internimage train`."""
    folder = tmp_path_factory.mktemp(f'pure_{request.param}')
    text, scope = (DETECTOR, 'mmdet') if request.param == 'detector' else (SEGMENTOR, 'mmseg')
    text = re.sub(r"dict\(type='ResNet'.*", BACKBONE + ',', text.replace('{root}', str(data_root)))
    (folder / 'base.py').write_text(in_pure_python(text + "init = dict(type='Pretrained')\n", scope))
    config = folder / f'{request.param}.py'
    base = 'from mmengine.config import read_base\n\nwith read_base():\n    from .base import *\n'
    config.write_text(base + in_pure_python(RUNTIME, scope))
    work = folder / 'work'
    assert call('train', config, '--work-dir', work, '--cfg-options', 'optim_wrapper.optimizer.lr=0.02') == 0
    return request.param, config, work


def test_types_are_classes(trained):
    _, config, _ = trained
    cfg = Config.fromfile(config)
    kinds = [cfg.model.type, cfg.model.backbone.type, cfg.train_dataloader.dataset.type, cfg.optim_wrapper.type]
    assert all(map(inspect.isclass, kinds)) and cfg.default_scope is None


def test_training_is_resumed_with_amp(trained, outside, capfd):  # noqa: F811
    _, config, work = trained
    args = ('--work-dir', outside / 'work', '--cfg-options', 'train_cfg.max_epochs=2', 'model.backbone.with_cp=True')
    assert call('train', config, '--resume', work / 'epoch_1.pth', *args) == 0
    assert (outside / 'work' / 'epoch_2.pth').is_file()
    assert call('train', config, '--amp', '--backbone', work / 'epoch_1.pth', '--work-dir', outside / 'amp') == 0
    assert (outside / 'amp' / 'epoch_1.pth').is_file()


def test_it_is_evaluated_and_taken_apart(trained, outside, capfd):  # noqa: F811
    task, config, work = trained
    args = ('test', config, work / 'epoch_1.pth', '--work-dir', outside / 'work')
    assert call(*args, '--out', outside / 'all.json', '--show-dir', outside / 'drawn') == 0
    assert ('bbox_mAP:' if task == 'detector' else 'mIoU:') in ''.join(capfd.readouterr())
    if task == 'segmentor':
        assert call(*args, '--tta') == 0
    else:
        assert 'MaskRCNN predicts masks of instances' in fails(capfd, outside, *args, '--tta')
    assert call('analyze', config, '--shape', 64, 96) == 0
    assert call('convert', work / 'epoch_1.pth', outside / 'w.pth', '--config', config) == 0


def test_inference(trained, data_root, outside, capfd):  # noqa: F811
    _, config, work = trained
    images = data_root / 'images' / '1.png'
    assert call('infer', images, config, work / 'epoch_1.pth', '--out-dir', outside / 'out') == 0
    assert (outside / 'out' / '1.png').is_file()


def test_classes_and_options(trained, data_root, outside, capfd):  # noqa: F811
    task, config, _ = trained
    cfg = load_config(str(config), {'classes': ['a', 'b', 'c'], 'test_dataloader.dataset.indices': 3})
    head = cfg.model.roi_head.bbox_head if task == 'detector' else cfg.model.decode_head
    assert head.num_classes == 3 and cfg.test_dataloader.dataset.metainfo.classes == ('a', 'b', 'c')
    line = fails(capfd, outside, 'analyze', config, '--cfg-options', 'train_dataloader.batchsize=7')
    assert 'did you mean train_dataloader.batch_size' in line
    line = fails(capfd, outside, 'train', config, '--cfg-options', 'train_dataloader.dataset.data_root=/nowhere')
    assert 'train_dataloader: data_root /nowhere does not exist' in line
