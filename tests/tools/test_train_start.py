"""What a training, a test and inference start from: classes, weights, loaders and folders that they refuse, and why."""

import json
from argparse import Namespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from test_tools import call, data_root, fails, load, outside, write_config  # noqa: F401 (fixtures)

PSP = """
model['decode_head'].update(type='PSPHead', pool_scales=(1, 2), in_channels=64)
for key in ('num_convs', 'concat_input'):
    del model['decode_head'][key]
"""


@pytest.fixture(scope='module', params=['detector', 'segmentor'])
def untrained(request, data_root, tmp_path_factory):  # noqa: F811
    """A config, and an untrained model of it that knows the classes 'dark' and 'light'."""
    folder = tmp_path_factory.mktemp(request.param)
    config = write_config(folder, request.param, data_root)
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
    content = dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=('dark', 'light'))))
    torch.save(content, folder / 'model.pth')
    return config, folder / 'model.pth'


def image(data_root):  # noqa: F811
    return next((data_root / 'images').iterdir())


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('start', ['test', 'infer', 'train --load-from', 'train --backbone'])
def test_weights_that_are_not_finite(start, value, untrained, data_root, outside, tmp_path_factory, capsys):  # noqa: F811
    config, file = untrained
    content = torch.load(file, weights_only=False)
    for name in ('backbone.conv1.weight', 'backbone.layer2.0.conv1.weight'):
        content['state_dict'][name].view(-1)[5] = value
    broken = tmp_path_factory.mktemp('broken') / 'broken.pth'
    torch.save(content, broken)
    tool, *option = start.split()
    before = [image(data_root)] if tool == 'infer' else []
    line = fails(capsys, outside, tool, *before, config, *option, broken)
    assert f'{broken}: 2 of ' in line and 'backbone.conv1.weight' in line


@pytest.mark.parametrize(
    ('classes', 'words'),
    [
        (('light', 'dark'), "the same 2 classes in another order: class 0 is 'dark' in the checkpoint and 'light'"),
        (('dark', 'bright'), "1 of 2 classes have other names: class 1 is 'light' in the checkpoint and 'bright'"),
    ],
)
@pytest.mark.parametrize('start', ['test', 'infer', 'train --load-from'])
def test_other_classes(start, classes, words, untrained, data_root, outside, tmp_path_factory, capsys):  # noqa: F811
    config, file = untrained
    task = 'segmentor' if 'seg' in str(config.parent) else 'detector'
    other = write_config(tmp_path_factory.mktemp('other'), task, data_root, f'\nclasses = {classes}\n')
    tool, *option = start.split()
    if 'bright' in classes and (tool == 'train' or (tool, task) == ('test', 'detector')):
        return  # starts the class layers anew: tests/openmmlab/engine/test_start.py; and no category of the annotations
    before = [image(data_root)] if tool == 'infer' else []
    assert words in fails(capsys, outside, tool, *before, other, *option, file)


def test_classes_that_are_written_otherwise(untrained, data_root, outside, tmp_path_factory):  # noqa: F811
    config, file = untrained
    content = torch.load(file, weights_only=False)
    content['meta'] = dict(CLASSES=('DARK ', 'Li-ght'), PALETTE=[[0, 0, 0], [9, 9, 9]])
    same = tmp_path_factory.mktemp('same') / 'same.pth'
    torch.save(content, same)
    assert call('test', config, same, '--work-dir', outside / 'work') == 0
    assert call('infer', image(data_root), config, same, '--out-dir', outside / 'out') == 0


def test_no_detection_at_all(data_root, outside, untrained, capfd):  # noqa: F811
    config, file = untrained
    if 'detector' not in str(config.parent):
        pytest.skip('for detectors')
    options = 'model.test_cfg.rcnn.score_thr=2.0', 'test_dataloader.dataset.data_prefix.img=images'
    assert call('test', config, file, '--work-dir', outside / 'work', '--cfg-options', *options) == 0
    log = next((outside / 'work').glob('*/*.log')).read_text()
    assert log.count('no detection in any of 8 images') == 1
    metrics = json.loads(next((outside / 'work').glob('*/*.json')).read_text())
    assert metrics['coco/bbox_mAP'] == metrics['coco/segm_mAP_50'] == metrics['coco/segm_mAP_s'] == 0


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_no_worker_processes(tool, untrained, outside, tmp_path_factory, data_root):  # noqa: F811
    config, file = untrained
    task = 'segmentor' if 'seg' in str(config.parent) else 'detector'
    loaders = 'for loader in (train_dataloader, test_dataloader):\n    loader.update(persistent_workers=True'
    config = write_config(tmp_path_factory.mktemp('workers'), task, data_root, f'\n{loaders}, prefetch_factor=4)\n')
    more = [file] if tool == 'test' else []
    assert call(tool, config, *more, '--work-dir', outside / 'work') == 0


@pytest.mark.parametrize('value', ['num_workers=-1', 'num_workers=2.5', 'batch_size=0'])
def test_loaders_that_cannot_be(value, untrained, outside, capsys):  # noqa: F811
    config, _ = untrained
    key, number = value.split('=')
    line = fails(capsys, outside, 'train', config, '--cfg-options', f'train_dataloader.{value}')
    assert f'train_dataloader: {key} must be a whole number of at least' in line and f'got {number}' in line


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['batch_size=1'], 'got train_dataloader.batch_size=1'),
        (['batch_size=7'], 'of 8 images in batches of 7 one is left'),
    ],
)
def test_batch_norm_on_one_image(options, words, data_root, outside, tmp_path_factory, capfd):  # noqa: F811
    config = write_config(tmp_path_factory.mktemp('psp'), 'segmentor', data_root, PSP)
    options = [f'train_dataloader.{option}' for option in options]
    assert call('train', config, '--work-dir', outside / 'work', '--cfg-options', *options) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and words in lines[0] and 'decode_head.psp_modules.0.1.bn' in lines[0]
    assert not list((outside / 'work').glob('*.pth'))


def test_batch_norm_without_the_left_image(data_root, outside, tmp_path_factory):  # noqa: F811
    left_out = PSP + '\ntrain_dataloader.update(batch_size=7, drop_last=True)\n'
    config = write_config(tmp_path_factory.mktemp('psp'), 'segmentor', data_root, left_out)
    assert call('train', config, '--work-dir', outside / 'work') == 0


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_a_work_folder_that_cannot_be(tool, untrained, outside, capsys):  # noqa: F811
    config, file = untrained
    (outside / 'taken').write_text('')
    more = [file] if tool == 'test' else []
    for folder in (outside / 'taken', outside / 'taken' / 'inside'):
        assert f'work folder {folder} cannot be written' in fails(
            capsys, outside, tool, config, *more, '--work-dir', folder
        )


class TestWhichStart:
    """`internimage train`: what the command line and the config say, and what the Runner then starts from."""

    def start(self, work, args, **config):
        cfg = Config(dict(work_dir=str(work), **config))
        load('train').choose_start(cfg, Namespace(**{**dict(resume=None, load_from=None, backbone=None), **args}))
        return cfg.get('load_from'), cfg.get('resume', False)

    @pytest.mark.parametrize('config', [{}, dict(resume=True), dict(resume=True, load_from='old.pth')])
    def test_the_command_line_decides(self, config, tmp_path):
        assert self.start(tmp_path, dict(load_from='a.pth'), **config) == ('a.pth', False)
        assert self.start(tmp_path, dict(resume='a.pth'), **config) == ('a.pth', True)
        assert self.start(tmp_path, dict(backbone='a.pth'), **config) == (None, False)

    def test_the_config(self, tmp_path):
        assert self.start(tmp_path, {}) == (None, False)
        assert self.start(tmp_path, {}, load_from='b.pth') == ('b.pth', False)
        assert self.start(tmp_path, {}, load_from='b.pth', resume=True) == ('b.pth', True)

    @pytest.mark.parametrize('said', [dict(args=dict(resume='latest')), dict(args={}, resume=True)])
    def test_the_latest(self, said, tmp_path, capsys):
        assert self.start(tmp_path, **said) == (None, False)
        assert (
            f'no checkpoint to resume in {tmp_path}: the training starts from the beginning' in capsys.readouterr().out
        )
        (tmp_path / 'iter_7.pth').touch()
        (tmp_path / 'last_checkpoint').write_text('/moved/away/iter_7.pth')
        assert self.start(tmp_path, **said) == (f'{tmp_path}/iter_7.pth', True)

    def test_nothing_to_resume_but_weights_to_start_from(self, tmp_path, capsys):
        assert self.start(tmp_path, dict(resume='latest'), load_from='b.pth') == ('b.pth', False)
        assert 'the training starts from b.pth' in capsys.readouterr().out
