"""`internimage new`: every format, whole and broken; the config that is written loads, checks and trains."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import own_data_folders as folders
import pytest

from internimage.openmmlab.cli import new
from internimage.openmmlab.configuration import load_config
from internimage.openmmlab.datasets import checks
from internimage.openmmlab.own_data import config as advice
from internimage.openmmlab.own_data import pictures, read_folder, report
from internimage.openmmlab.settings import SETTINGS

FORMATS = {
    'coco': ('inst', 'COCO json', folders.break_coco),
    'roboflow': ('det', 'COCO json', folders.break_roboflow),
    'voc': ('det', 'Pascal VOC xml', folders.break_voc),
    'yolo': ('det', 'YOLO txt', folders.break_yolo),
    'labelme': ('inst', 'LabelMe json', folders.break_labelme),
    'colours': ('sem', 'label maps of RGB colours', folders.break_colours),
    'binary': ('sem', 'label maps of 0 and 255', folders.break_binary),
    'indices': ('sem', 'label maps of class indices', folders.break_indices),
    'instances': ('inst', 'instance maps', None),
}
MODELS = {'det': 'faster_rcnn_small', 'inst': 'mask_rcnn_small', 'sem': 'upernet_small'}


def run(monkeypatch, data, out, task, *more) -> Path:
    arguments = ['internimage new', str(data), '--task', task, '--model', MODELS[task], '--out', str(out), *more]
    monkeypatch.setattr(sys, 'argv', arguments)
    monkeypatch.setattr(report, 'SAMPLES', 2)
    new.main()
    (config,) = out.glob('*.py')
    return config


# The others are whole in the tests of their broken copies but for what is broken.
@pytest.mark.parametrize(
    'name', [name if name in ('coco', 'instances') else pytest.param(name, marks=pytest.mark.slow) for name in FORMATS]
)
def test_config_and_report_of_every_format(name, tmp_path, monkeypatch, capsys):
    task, what, _ = FORMATS[name]
    data = getattr(folders, name)(tmp_path / 'pets')
    before = sorted(path for path in data.rglob('*'))
    config = run(monkeypatch, data, tmp_path / 'out', task)
    assert what in capsys.readouterr().out
    assert sorted(path for path in data.rglob('*')) == before  # nothing is written there
    assert not [path for path in (tmp_path / 'out').rglob('*') if path.suffix in ('.jpg', '.png')]
    cfg = load_config(str(config))
    checks.check_data(cfg, 'train', 'val', 'test', mode='full')
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert what in page and '<svg' in page and 'data:image/jpeg;base64,' in page
    assert 'src="http' not in page and 'href=' not in page.replace('xlink:href="#', '')  # opens without a network
    classes = {'binary': ('background', 'foreground'), 'instances': ('class_0',)}
    classes = classes.get(name, ('background', 'cat', 'dog') if task == 'sem' else ('cat', 'dog'))
    assert cfg.classes == classes


@pytest.mark.parametrize('name', [name for name, (_, _, broken) in FORMATS.items() if broken])
def test_every_problem_of_a_broken_copy(name, tmp_path, monkeypatch, capsys):
    task, _, breaks = FORMATS[name]
    data = getattr(folders, name)(tmp_path / 'pets')
    expected = breaks(data)
    config = run(monkeypatch, data, tmp_path / 'out', task)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('problem: ')]
    found = {line.split(' x ', 1)[1]: int(line.split()[1]) for line in lines}
    assert {kind: found.get(kind, 0) for kind in expected} == expected, found
    assert 'a run would stop here' not in found
    checks.check_data(load_config(str(config)), 'train', 'val', 'test', mode='full')
    page = (tmp_path / 'out' / 'report.html').read_text()
    for kind in expected:
        assert kind.replace('"', '&#34;') in page


def test_boxes_are_the_same_in_every_format(tmp_path):
    for name in ('coco', 'voc', 'labelme', 'yolo', 'instances'):
        found = read_folder(str(getattr(folders, name)(tmp_path / name)), 'inst' if name == 'instances' else None)
        pictures.check_pictures(found)
        for part, number in (('train' if name in ('voc', 'yolo') else 'all', 50 if name == 'yolo' else 0),):
            first = next(each for each in found.parts[part] if Path(each.path).stem in ('0', 'p0'))
            boxes = np.array([thing.box for thing in first.things])
            assert np.allclose(boxes, folders.boxes(number), atol=0.01), name
            assert [thing.label for thing in first.things] == ([0, 0] if name == 'instances' else [0, 1])


def test_polygons_of_yolo(tmp_path):
    found = read_folder(str(folders.yolo(tmp_path, polygons=True)))
    (first, *_), picture = found.parts['train'][0].things, found.parts['train'][0]
    pictures.check_pictures(found)
    assert found.has_masks
    x1, y1, x2, y2 = folders.boxes(50)[0]
    assert pictures.area(first, picture) == (x2 - x1) * (y2 - y1)


def test_the_split_depends_on_the_name_alone(tmp_path):
    def parts(names):
        every = [pictures.Picture(f'/x/{name}.jpg', 9, 9) for name in names]
        found = pictures.Found('', '/x', ['a'], {'all': every})
        pictures.split(found)
        return {part: {Path(each.path).stem for each in pictures} for part, pictures in found.parts.items()}

    many = [f'img_{i}' for i in range(500)]
    all_of_them, half = parts(many), parts(many[::2])
    assert 70 < len(all_of_them['val']) < 130
    assert half['val'] == all_of_them['val'] & set(many[::2])
    assert parts(['one', 'two'])['val'] and parts(['one', 'two'])['train']


def test_copies_of_a_picture_stay_in_one_part():
    every = [pictures.Picture(f'/x/{i}.jpg', 9, 9, same_as=f'/x/{i // 2}.jpg') for i in range(200)]
    found = pictures.Found('', '/x', ['a'], {'all': every})
    pictures.split(found)
    originals = [{each.same_as for each in part} for part in found.parts.values()]
    assert originals[0].isdisjoint(originals[1]) and min(map(len, originals)) > 5


def test_two_files_with_one_image_of_a_name_each(tmp_path):
    """train/1.jpg belongs to train's annotations, val/1.jpg to val's."""
    for part in ('train', 'val'):
        folders.save(tmp_path / part / '1.jpg', len(part))
        folders.write(tmp_path / 'annotations' / f'instances_{part}2017.json', json.dumps(folders.coco_json(['1.jpg'])))
    found = read_folder(str(tmp_path))
    assert {part: [Path(each.path).parent.name for each in every] for part, every in found.parts.items()} == {
        'train': ['train'],
        'val': ['val'],
    }


def numbers_of(size, sides, most=5):
    sides = np.array(sides, float)
    return advice.Numbers(size, sides, np.ones(len(sides)), most)


@pytest.mark.parametrize(
    ('size', 'sides', 'scale'),
    [
        ((640, 480), [100] * 10, (640, 480)),  # as they are
        ((4000, 3000), [600] * 10, (1064, 800)),  # into 1333 x 800
        ((256, 256), [10] * 10, (408, 408)),  # objects of 10 pixels become 16: 409.6, a multiple of 8
        ((256, 256), [3] * 10, (512, 512)),  # twice, no more
        ((480, 640), [100] * 10, (640, 480)),  # longest side first
    ],
)
def test_image_scale(size, sides, scale):
    assert advice.image_scale(numbers_of(size, sides))[0] == scale


def test_advice_for_an_official_detector(tmp_path):
    found = read_folder(str(folders.coco(tmp_path)))
    pictures.check_pictures(found)
    pictures.split(found)
    lines = {
        line.name: line
        for line in advice.lines_for(found, 'inst', 'coco/mask_rcnn_internimage_t_fpn_1x_coco', tmp_path, {})
    }
    assert lines['load_from'].value.endswith('/mask_rcnn_internimage_t_fpn_1x_coco.pth')
    assert lines['batch_size'].value == 2
    assert lines['lr'].value == 1e-05  # 1e-4 for 16 images: 1.25e-5, in one digit
    assert lines['max_epochs'].value == 100
    assert lines['anchor_scales'].value == [4]  # objects of 21 to 28 pixels
    assert all(line.why for name, line in lines.items() if name in ('image_scale', 'batch_size', 'lr', 'max_epochs'))


def test_models_and_their_bases():
    for name, base in advice.MODELS.items():
        task = 'sem' if name.startswith('upernet') else 'inst'
        assert advice.choose_base(task, name, True) == base
        assert base.startswith('demo/') == name.endswith('small')
    cfg = load_config('faster_rcnn_internimage_small_coco')
    assert SETTINGS['image_scale'].get(cfg) == (1333, 800)


@pytest.mark.parametrize(
    ('make', 'arguments', 'message'),
    [
        (None, [], 'there is no image in this folder'),
        ('roboflow', ['--task', 'inst'], 'with boxes alone; --task inst needs masks'),
        ('roboflow', ['--task', 'sem'], 'no label map for its 8 images'),
        ('roboflow', ['--model', 'mask_rcnn_t'], 'needs masks, and these data have boxes alone'),
        ('roboflow', ['--model', 'upernet_t'], 'is a segmentor, for --task det'),
        ('roboflow', ['--model', 'yolo_v8'], 'config yolo_v8 does not exist; or one of faster_rcnn_t'),
        ('roboflow', ['--val', '2'], '--val 2 must be between 0 and 1'),
    ],
)
def test_errors(make, arguments, message, tmp_path, monkeypatch, capsys):
    data = getattr(folders, make)(tmp_path / 'pets') if make else tmp_path
    monkeypatch.setattr(sys, 'argv', ['internimage new', str(data), '--out', str(tmp_path / 'out'), *arguments])
    with pytest.raises(SystemExit) as stop:
        new.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_config_is_not_overwritten_by_itself(tmp_path, monkeypatch, capsys):
    data = folders.voc(tmp_path / 'pets')
    config = run(monkeypatch, data, tmp_path / 'out', 'det')
    config.write_text('mine')
    with pytest.raises(SystemExit):
        run(monkeypatch, data, tmp_path / 'out', 'det')
    assert 'exists: --overwrite replaces it' in capsys.readouterr().err
    assert config.read_text() == 'mine'
    run(monkeypatch, data, tmp_path / 'out', 'det', '--overwrite')
    assert 'classes' in config.read_text()


def test_names_for_label_maps_and_a_void_after_them(tmp_path):
    found = read_folder(str(folders.label_maps(tmp_path, (0, 1, 2))), 'sem', ['ground', 'cat'])
    assert (found.classes, found.ignore_index, found.label_values) == (['ground', 'cat'], 2, [])
    assert Counter(problem.kind for problem in found.problems) == {'value 2 is of no class: taken for void': 1}


def test_colours_without_names(tmp_path):
    found = read_folder(str(folders.label_maps(tmp_path, folders.COLOURS)), 'sem')
    assert found.label_values == [[0, 0, 0], [0, 200, 90], [128, 0, 0]]
    assert found.classes == ['colour_0_0_0', 'colour_0_200_90', 'colour_128_0_0']
    pictures.split(found)
    counts = sum(advice.class_counts(found).values(), Counter())
    assert sum(counts.values()) == 6 * 64 * 48 and counts[2] == 6 * 22 * 20
