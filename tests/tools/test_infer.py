"""`internimage infer` and the outputs of `internimage test`: failures, interruption, full disks."""

import errno
import json
import os
from pathlib import Path
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from test_tools import call, fails, load
from tiny_models import detector, names, save_checkpoint, segmentor

from internimage.openmmlab.large_images import run_length

SIZE = 40, 56


@pytest.fixture(scope='module')
def models(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """{task: (config file, checkpoint)}."""
    folder = tmp_path_factory.mktemp('models')
    files = {}
    for task, cfg, classes in (
        ('detector', detector(), 2),
        ('segmentor', segmentor(), 3),
        ('many', segmentor(classes=257), 257),
    ):
        cfg.dump(folder / f'{task}.py')
        files[task] = folder / f'{task}.py', save_checkpoint(cfg, folder / f'{task}.pth', classes=names(classes))
    return files


@pytest.fixture
def images(tmp_path, monkeypatch) -> Path:
    """A folder of four images in an otherwise empty working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'images').mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (*SIZE, 3), np.uint8)
        cv2.imwrite(str(tmp_path / 'images' / f'{index}.png'), pixels)
    return tmp_path / 'images'


def outputs(folder='out') -> list[str]:
    return sorted(os.listdir(folder))


def recorded(folder='out') -> list[str]:
    """The names of the images in predictions.json."""
    return [Path(record['file']).name for record in json.loads(Path(folder, 'predictions.json').read_text())]


def raise_at(monkeypatch, function: str, number: int, error: BaseException) -> None:
    """The tool's function raises the error when it is called for the time `number`, from 1."""
    tool, calls = load('infer'), []
    plain = getattr(tool, function)

    def raising(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise error
        return plain(*args, **kwargs)

    monkeypatch.setattr(tool, function, raising)


@pytest.mark.parametrize(
    'error',
    [cv2.error('resize to 0 pixels'), RuntimeError('two\nlines'), ZeroDivisionError(), MemoryError('of the image')],
)
@pytest.mark.parametrize('task', ['detector', 'segmentor'])
def test_an_image_that_fails_does_not_cost_the_others(task, error, models, images, monkeypatch, capsys):
    raise_at(monkeypatch, 'predict', 2, error)
    assert call('infer', images, *models[task], '--out-dir', 'out', '--score-thr', 0) == 1
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith('failed ')]
    assert len(lines) == 1 and lines[0].startswith(f'failed {images}/1.png: {type(error).__name__}: ')
    assert '3 images done, 0 skipped, 1 failed' in printed.out
    assert [f'{index}.png' in outputs() for index in range(4)] == [True, False, True, True]
    if task == 'detector':
        assert outputs() == ['0.png', '2.png', '3.png', 'predictions.json']
        assert recorded() == ['0.png', '2.png', '3.png']


def test_images_that_all_fail(models, images, monkeypatch, capsys):
    monkeypatch.setattr(load('infer'), 'predict', lambda *args, **kwargs: 1 / 0)
    assert call('infer', images, *models['detector'], '--out-dir', 'out') == 2
    assert 'error: no image was done: 0 skipped, 4 failed' in capsys.readouterr().err
    assert not Path('out').exists()


@pytest.mark.parametrize('shape', [(1, 3000), (3000, 1), (1, 1), (2, 2000)])
def test_thin_images_among_others(shape, models, images, capsys):
    cv2.imwrite(str(images / 'thin.png'), np.full((*shape, 3), 99, np.uint8))
    assert call('infer', images, *models['detector'], '--out-dir', 'out') in (0, 1)
    assert {'0.png', '1.png', '2.png', '3.png', 'predictions.json'} <= set(outputs())
    assert recorded()[:4] == ['0.png', '1.png', '2.png', '3.png']


def test_an_interrupted_run_leaves_what_is_done(models, images, monkeypatch, capsys):
    raise_at(monkeypatch, 'predict', 3, KeyboardInterrupt())
    assert call('infer', images, *models['detector'], '--out-dir', 'out') == 130
    assert 'interrupted: 2 of 4 images are done' in capsys.readouterr().err
    assert outputs() == ['0.png', '1.png', 'predictions.json'] and recorded() == ['0.png', '1.png']


def test_a_killed_run_leaves_what_is_done(tmp_path):
    results = load('infer').Records(tmp_path / 'predictions.json')
    results.close()
    assert not list(tmp_path.iterdir())
    results.add({'file': 'a'})
    results.add({'file': 'b\nc'})
    lines = (tmp_path / 'predictions.part.jsonl').read_text().splitlines()  # what a killed process leaves
    assert [json.loads(line) for line in lines] == [{'file': 'a'}, {'file': 'b\nc'}]
    results.close()
    assert outputs(tmp_path) == ['predictions.json']
    assert json.loads((tmp_path / 'predictions.json').read_text()) == [{'file': 'a'}, {'file': 'b\nc'}]


def test_a_full_disk(models, images, monkeypatch, capsys):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'out/2.png')
    raise_at(monkeypatch, 'write_image', 3, full)
    assert call('infer', images, *models['detector'], '--out-dir', 'out') == 2
    line = 'error: out/2.png: No space left on device; 2 of 4 images are done'
    assert line in capsys.readouterr().err.splitlines()
    assert outputs() == ['0.png', '1.png', 'predictions.json'] and recorded() == ['0.png', '1.png']


@pytest.mark.parametrize('folder', ['file', 'file/below', '/proc/nowhere', '/dev/null', 'dangling'])
def test_an_output_that_cannot_be_written_is_found_before_the_work(folder, images, capsys):
    Path('file').touch()
    Path('dangling').symlink_to('/proc/nowhere/x')
    for tool, *args in (
        ('infer', images, 'config.py', 'x.pth', '--out-dir', folder),
        ('test', 'config.py', 'x.pth', '--show-dir', folder),
        ('test', 'config.py', 'x.pth', '--out', f'{folder}/x.json'),
    ):
        line = fails(capsys, images.parent, tool, *args)
        assert line.startswith(f'error: --{args[-2][2:]} {folder}') and 'cannot be written' in line


@pytest.mark.parametrize('value', ['30', '-0.1', '1.0001', 'nan', 'inf'])
def test_a_score_threshold_beyond_0_to_1(value, images, capsys):
    line = fails(capsys, images.parent, 'infer', images, 'config.py', 'x.pth', f'--score-thr={value}')
    assert line == f'error: --score-thr {value} must be between 0 and 1'


@pytest.mark.parametrize('task, dtype', [('segmentor', np.uint8), ('many', np.uint16)])
def test_the_depth_of_label_maps_goes_by_the_number_of_classes(task, dtype, models, images):
    assert call('infer', images, *models[task], '--out-dir', 'out') == 0
    for index in range(4):
        labels = cv2.imread(f'out/{index}_labels.png', cv2.IMREAD_UNCHANGED)
        assert labels.dtype == dtype and labels.shape == SIZE


# `internimage test` --show-dir


@pytest.mark.parametrize(
    'files, drawings',
    [
        (['a/0.png', 'a/1.jpg'], ['0.png', '1.png']),
        (['d/cam0/0.png', 'd/cam1/0.png'], ['cam0/0.png', 'cam1/0.png']),
        (['d/0.png', 'd/cam1/0.png'], ['0.png', 'cam1/0.png']),
        (['d/x/cam0/0.png', 'd/y/0.png'], ['x/cam0/0.png', 'y/0.png']),
        (['d/0.png', 'd/0.jpg', 'd/0.png.jpg'], ['0.png.png', '0.jpg.png', '0.png.jpg.png']),
        (['/d/0.png', '../e/0.png'], None),
        (['0.png', '0.png'], ['0.png', '0.png']),
    ],
)
def test_no_drawing_over_another(files, drawings):
    found = load('test').drawing_names(files)
    found = [str(found[os.path.abspath(file)]) for file in files]
    assert len(set(found)) == len(set(files)) and not any('..' in name or os.path.isabs(name) for name in found)
    assert drawings is None or found == drawings


@pytest.mark.parametrize('rank', [0, 1])
@pytest.mark.parametrize('task', ['detector', 'segmentor'])
def test_test_draws_truth_and_prediction_of_every_image(task, rank, images, monkeypatch):
    """In every process of distributed testing, and also with masks as run-length codes and without truth."""
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: rank)
    files = [str(images / 'cam0' / '0.png'), str(images / 'cam1' / '0.png')]
    for index, file in enumerate(files):
        Path(file).parent.mkdir()
        (images / f'{index}.png').rename(file)
    dataset = MagicMock(metainfo=dict(classes=names(2)), get_data_info=lambda index: dict(img_path=files[index]))
    dataset.__len__.return_value = len(files)
    hook = load('test').DrawHook('drawn', dataset)
    labels = torch.arange(SIZE[0] * SIZE[1]).reshape(1, *SIZE) % 3
    boxes, masks = torch.tensor([[3.0, 4, 30, 21]]), torch.zeros(1, *SIZE, dtype=torch.bool)
    masks[0, 5:20, 4:25] = True
    for file, truth in zip(files, (True, False), strict=True):
        if task == 'segmentor':
            sample = SegDataSample(pred_sem_seg=PixelData(data=labels), metainfo=dict(img_path=file, ori_shape=SIZE))
            if truth:
                sample.gt_sem_seg = PixelData(data=labels % 2)
        else:
            found = InstanceData(bboxes=boxes, labels=torch.tensor([1]), scores=torch.tensor([0.9]))
            found.masks = [run_length(masks[0].numpy())]
            sample = DetDataSample(pred_instances=found, metainfo=dict(img_path=file, ori_shape=SIZE))
            if truth:
                sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0]), masks=masks)
        hook.after_test_iter(None, 0, None, [sample])
    for name, width in (('cam0', 2 * SIZE[1]), ('cam1', SIZE[1])):
        drawn = cv2.imread(f'drawn/{name}/0.png')
        assert drawn.shape == (SIZE[0], width, 3)
    assert not np.array_equal(drawn, cv2.imread(files[1]))
