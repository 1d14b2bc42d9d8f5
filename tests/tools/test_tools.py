"""The tools, on Mask R-CNN and FCN small enough to train in seconds: whole runs, and one clear error for bad input."""

import importlib
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import mmcv
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
SIZE = 48, 64  # height, width of the images
PARTS = ('backbone', 'neck', 'rpn_head', 'roi_head')  # of the detector

DETECTOR = """
default_scope = 'mmdet'
norm = dict(type='SyncBN')
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[127.] * 3, std=[60.] * 3, bgr_to_rgb=True, pad_mask=True,
                           pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, norm_cfg=norm),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
    rpn_head=dict(
        type='RPNHead', in_channels=16, feat_channels=16,
        anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[.8, 1.2], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'), loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss')),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(type='SingleRoIExtractor', out_channels=16, featmap_strides=[4, 8, 16, 32],
                                roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0)),
        bbox_head=dict(type='Shared2FCBBoxHead', in_channels=16, fc_out_channels=32, roi_feat_size=7, num_classes=2,
                       bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[.1, .1, .2, .2]),
                       loss_cls=dict(type='CrossEntropyLoss'), loss_bbox=dict(type='L1Loss')),
        mask_roi_extractor=dict(type='SingleRoIExtractor', out_channels=16, featmap_strides=[4, 8, 16, 32],
                                roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0)),
        mask_head=dict(type='FCNMaskHead', num_convs=1, in_channels=16, conv_out_channels=16, num_classes=2,
                       loss_mask=dict(type='CrossEntropyLoss', use_mask=True))),
    train_cfg=dict(
        rpn=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=.7, neg_iou_thr=.3, min_pos_iou=.3),
                 sampler=dict(type='RandomSampler', num=64, pos_fraction=.5, add_gt_as_proposals=False),
                 allowed_border=-1, pos_weight=-1),
        rpn_proposal=dict(nms_pre=100, max_per_img=50, nms=dict(type='nms', iou_threshold=.7), min_bbox_size=0),
        rcnn=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=.5, neg_iou_thr=.5, min_pos_iou=.5),
                  sampler=dict(type='RandomSampler', num=32, pos_fraction=.25), mask_size=14, pos_weight=-1)),
    test_cfg=dict(
        rpn=dict(nms_pre=100, max_per_img=20, nms=dict(type='nms', iou_threshold=.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.0, nms=dict(type='nms', iou_threshold=.5), max_per_img=5, mask_thr_binary=.5)))
data = dict(type='CocoDataset', data_root='{root}', ann_file='boxes.json', data_prefix=dict(img='images'),
            metainfo=dict(classes=('dark', 'light')))
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
                  dict(type='PackDetInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(128, 96), keep_ratio=True),
                 dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
                 dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
test_evaluator = dict(type='CocoMetric', ann_file='{root}/boxes.json', metric=['bbox', 'segm'])
visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
"""

SEGMENTOR = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.] * 3, std=[60.] * 3, bgr_to_rgb=True, size=(48, 64)),
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, norm_cfg=dict(type='SyncBN')),
    decode_head=dict(type='FCNHead', in_channels=64, in_index=3, channels=16, num_convs=1, concat_input=False,
                     num_classes=2, norm_cfg=dict(type='SyncBN'), loss_decode=dict(type='CrossEntropyLoss')),
    test_cfg=dict(mode='whole'))
data = dict(type='BaseSegDataset', data_root='{root}', img_suffix='.png',
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            metainfo=dict(classes=('dark', 'light'), palette=[[0, 0, 0], [255, 255, 255]]))
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
"""

RUNTIME = """
train_dataloader = dict(batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
                        dataset=dict(pipeline=train_pipeline, **data))
test_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                       dataset=dict(pipeline=test_pipeline, test_mode=True, **data))
val_dataloader, val_evaluator = test_dataloader, test_evaluator
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=10)
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
randomness = dict(seed=0)
"""


def load(tool: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f'internimage.openmmlab.cli.{tool}')


def call(tool: str, *args) -> int:
    """Runs the command in this process with these arguments and returns its exit code."""
    argv, sys.argv = sys.argv, [tool, *map(str, args)]
    try:
        load(tool).main()
    except SystemExit as stop:
        return stop.code
    finally:
        sys.argv = argv
    return 0


def fails(capsys, work: Path, tool: str, *args) -> str:
    """The one error line of a tool that must fail, having written nothing into `work`."""
    before = sorted(work.rglob('*'))
    capsys.readouterr()
    assert call(tool, *args) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1
    assert sorted(work.rglob('*')) == before
    return lines[0]


@pytest.fixture(scope='module')
def data_root(tmp_path_factory) -> Path:
    """Eight noisy images with one dark and one light box each, as COCO json and as label maps."""
    root, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
    images, annotations = [], []
    for index in range(8):
        name = f'{index}.png'
        image, labels = rng.integers(90, 160, (*SIZE, 3), np.uint8), np.full(SIZE, 255, np.uint8)
        images.append(dict(id=index, file_name=name, height=SIZE[0], width=SIZE[1]))
        for label, (color, left) in enumerate([(20, 2), (230, 34)]):
            x, y, w, h = left + int(rng.integers(6)), int(rng.integers(2, 20)), 20, 24
            image[y : y + h, x : x + w], labels[y : y + h, x : x + w] = color, label
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                dict(id=len(annotations), image_id=index, category_id=label, bbox=[x, y, w, h], area=w * h, iscrowd=0)
                | dict(segmentation=[outline])
            )
        mmcv.imwrite(image, str(root / 'images' / name))
        mmcv.imwrite(labels, str(root / 'labels' / name))
    categories = [dict(id=0, name='dark'), dict(id=1, name='light')]
    (root / 'boxes.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return root


def write_config(folder: Path, task: str, data_root: Path, extra: str = '') -> Path:
    path = folder / f'{task}.py'
    text = (DETECTOR if task == 'detector' else SEGMENTOR).replace('{root}', str(data_root))
    path.write_text(text + RUNTIME + extra)
    return path


@pytest.fixture(scope='module', params=['detector', 'segmentor'])
def trained(request, data_root, tmp_path_factory) -> tuple[str, Path, Path]:
    """The task, its config, and the work folder of a training of one epoch by `internimage train`."""
    folder = tmp_path_factory.mktemp(request.param)
    config = write_config(folder, request.param, data_root)
    assert call('train', config, '--work-dir', folder / 'work') == 0
    return request.param, config, folder / 'work'


@pytest.fixture(scope='module')
def detector(data_root, tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp('untrained'), 'detector', data_root)


@pytest.fixture
def outside(tmp_path, monkeypatch) -> Path:
    """An empty folder outside the repository, as the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Whole runs


def test_train_leaves_a_checkpoint_with_the_class_names(trained):
    _, config, work = trained
    checkpoint = torch.load(work / 'epoch_1.pth', weights_only=False)
    assert checkpoint['meta']['dataset_meta']['classes'] == ('dark', 'light')
    assert checkpoint['meta']['iter'] == 2  # 8 images, batches of 4
    assert (work / config.name).is_file()


def test_resume_goes_on_where_training_stopped(trained, outside):
    _, config, work = trained
    copy = outside / 'work'
    copy.mkdir()
    (copy / 'epoch_1.pth').write_bytes((work / 'epoch_1.pth').read_bytes())
    (copy / 'last_checkpoint').write_text(str(copy / 'epoch_1.pth'))
    longer = ('--cfg-options', 'train_cfg.max_epochs=2')
    assert call('train', config, '--work-dir', copy, '--resume', *longer) == 0
    assert torch.load(copy / 'epoch_2.pth', weights_only=False)['meta']['iter'] == 4

    named = outside / 'named'
    assert call('train', config, '--work-dir', named, '--resume', work / 'epoch_1.pth', *longer) == 0
    assert (named / 'epoch_2.pth').is_file() and not (named / 'epoch_1.pth').exists()


def test_amp_trains_in_bfloat16_on_the_cpu(trained, outside, monkeypatch):
    _, config, _ = trained
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    module, seen = load('train'), []
    build = module.build_runner

    def watched(cfg):
        runner = build(cfg)
        convolution = next(m for m in runner.model.modules() if isinstance(m, torch.nn.Conv2d))
        convolution.register_forward_hook(lambda _module, _args, out: seen.append(out.dtype))
        return runner

    monkeypatch.setattr(module, 'build_runner', watched)
    assert call('train', config, '--work-dir', outside / 'work', '--amp') == 0
    assert seen == [torch.bfloat16] * 2 + [torch.float32] * 8  # two training steps; eight images of the validation
    weights = torch.load(outside / 'work' / 'epoch_1.pth', weights_only=False)['state_dict']
    assert all(value.isfinite().all() for value in weights.values())


def test_fine_tuning_on_other_classes(trained, data_root, outside, capfd, tmp_path_factory):
    """`classes`, in one place, and the checkpoint of a model with two classes."""
    task, _, work = trained
    classes = ('light',) if task == 'detector' else ('dark', 'light', 'neither')
    config = write_config(tmp_path_factory.mktemp('config'), task, data_root, f'\nclasses = {classes}\n')
    line = fails(capfd, outside, 'test', config, work / 'epoch_1.pth')
    assert 'of another shape: ' in line and '(the model has (' in line

    time.sleep(1)  # two Runners of one config in one second share a logger, and its file
    still = ('--cfg-options', 'optim_wrapper.optimizer.lr=0.0')
    assert call('train', config, '--load-from', work / 'epoch_1.pth', '--work-dir', outside / 'work', *still) == 0
    log = next((outside / 'work').glob('*/*.log')).read_text()
    layers = ('fc_cls', 'fc_reg', 'conv_logits') if task == 'detector' else ('conv_seg',)
    assert f'{2 * len(layers)} start anew: ' in log and 'do not match exactly' not in log
    before, after = (
        torch.load(path, weights_only=False) for path in (work / 'epoch_1.pth', outside / 'work/epoch_1.pth')
    )
    assert after['meta']['dataset_meta']['classes'] == classes
    for name, value in before['state_dict'].items():
        other = after['state_dict'][name]
        if any(layer in name for layer in layers):
            assert other.shape != value.shape
        elif 'running_' not in name and 'num_batches' not in name:
            assert torch.equal(other, value), name
    assert call('test', config, outside / 'work' / 'epoch_1.pth', '--work-dir', outside / 'test') == 0


def test_starting_from_a_backbone(trained, outside, capfd):
    _, config, work = trained
    weights = torch.load(work / 'epoch_1.pth', weights_only=False)['state_dict']
    weights = {name: value for name, value in weights.items() if name.startswith('backbone.')}
    torch.save({'state_dict': {**weights, 'head.weight': torch.ones(1)}}, outside / 'other.pth')
    capfd.readouterr()
    line = fails(capfd, outside, 'train', config, '--load-from', 'other.pth')
    assert 'missing' in line and line.endswith('its backbone alone: --backbone other.pth')
    still = ('--cfg-options', 'optim_wrapper.optimizer.lr=0.0')
    assert call('train', config, '--backbone', 'other.pth', '--work-dir', outside / 'work', *still) == 0
    after = torch.load(outside / 'work' / 'epoch_1.pth', weights_only=False)['state_dict']
    same = [name for name in weights if 'running_' not in name and 'num_batches' not in name]
    assert all(torch.equal(after[name], weights[name]) for name in same)
    assert 'nowhere.pth does not exist' in fails(capfd, outside, 'train', config, '--backbone', 'nowhere.pth')


def test_convert_checkpoint(trained, outside, capsys):
    task, config, work = trained
    assert call('convert', work / 'epoch_1.pth', 'sub/w.safetensors', '--config', config) == 0
    assert 'sub/w.safetensors: 1' in capsys.readouterr().out
    assert call('test', config, 'sub/w.safetensors', '--work-dir', outside / 'work') == 0
    assert call('convert', 'sub/w.safetensors', 'official.pth', '--to', 'official') == 0
    assert torch.load('official.pth')['meta']['CLASSES'] == ['dark', 'light']
    torch.save({'state_dict': {'backbone.other': torch.ones(1)}}, 'other.pth')
    line = fails(capsys, outside, 'convert', 'other.pth', 'new.pth', '--config', config)
    assert 'checkpoint other.pth is of another model' in line
    assert 'must end in .pth or .safetensors' in fails(capsys, outside, 'convert', 'other.pth', 'new.bin')


def test_analyze_prints_a_table_and_writes_all_of_it(detector, outside, capsys):
    assert call('analyze', detector, '--shape', 64, 96, '--depth', 1, '--json', 'cost.json') == 0
    printed = capsys.readouterr().out
    printed = printed[printed.index('module ') :]  # after what a first import prints
    cost = json.loads((outside / 'cost.json').read_text())
    assert [line.split()[0] for line in printed.splitlines()[:6]] == ['module', 'MaskRCNN', *PARTS]
    assert 'memory, 64x96, batch 1' in printed
    assert cost['modules']['']['parameters'] == sum(cost['modules'][part]['parameters'] for part in PARTS)
    assert cost['modules']['']['flops'] == sum(cost['modules'][part]['flops'] for part in PARTS)
    assert 'backbone.layer1.0.conv1' in cost['modules']


def test_analyze_errors(detector, outside, capsys):
    assert '(0, 96)' in fails(capsys, outside, 'analyze', detector, '--shape', 0, 96)
    assert 'does not exist' in fails(capsys, outside, 'analyze', detector, '--json', 'nowhere/cost.json')
    assert 'config missing.py does not exist' in fails(capsys, outside, 'analyze', 'missing.py')


def test_test_writes_metrics_predictions_and_drawings(trained, outside, capfd):
    task, config, work = trained
    out, drawn = outside / 'sub' / 'predictions.json', outside / 'drawn'
    args = (config, work / 'epoch_1.pth', '--work-dir', outside / 'work')
    assert call('test', *args, '--out', out, '--show-dir', drawn) == 0
    printed = ''.join(capfd.readouterr())
    assert ('bbox_mAP:' if task == 'detector' else 'mIoU:') in printed

    records = json.loads(out.read_text())
    assert [Path(record['file']).name for record in records] == [f'{index}.png' for index in range(8)]
    for record in records:
        assert record['size'] == list(SIZE)
        for found in record['predictions']:
            assert found['class'] == ('dark', 'light')[found['label']]
            assert coco_mask.decode(found['mask']).shape == SIZE
    assert [file.name for file in sorted(drawn.iterdir())] == [f'{index}.png' for index in range(8)]
    assert mmcv.imread(str(drawn / '0.png')).shape == (SIZE[0], 2 * SIZE[1], 3)  # truth beside prediction
    assert sorted(file.name for file in out.parent.iterdir()) == ['predictions.json']

    assert call('test', *args, '--out', outside / 'predictions.pkl') == 0
    pickled = pickle.loads((outside / 'predictions.pkl').read_bytes())
    assert json.loads(json.dumps(pickled)) == records


def test_test_time_augmentation(trained, data_root, outside, capfd, tmp_path_factory):
    task, config, work = trained
    if task == 'detector':
        line = fails(capfd, outside, 'test', config, work / 'epoch_1.pth', '--tta')
        assert 'MaskRCNN predicts masks of instances, and mmdet merges only the boxes' in line
        return
    args = (work / 'epoch_1.pth', '--work-dir', outside / 'work', '--tta')
    assert call('test', config, *args) == 0
    assert 'mIoU:' in ''.join(capfd.readouterr())
    extra = """
tta_model = dict(type='SegTTAModel')
tta_pipeline = [dict(type='LoadImageFromFile'),
                dict(type='TestTimeAug', transforms=[
                    [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1., direction='horizontal')],
                    [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
"""
    config = write_config(tmp_path_factory.mktemp('config'), task, data_root, extra)
    assert call('test', config, *args) == 0
    assert 'mIoU:' in ''.join(capfd.readouterr())


def test_infer_on_a_folder_skips_what_is_not_an_image(trained, data_root, outside, capsys):
    task, config, work = trained
    folder = outside / 'mixed'
    folder.mkdir()
    for index in range(2):
        (folder / f'{index}.png').write_bytes((data_root / 'images' / f'{index}.png').read_bytes())
    (folder / 'broken.jpg').write_bytes((data_root / 'images' / '0.png').read_bytes()[:100])
    (folder / 'notes.txt').write_text('no image')
    (folder / 'empty.png').touch()

    assert call('infer', folder, config, work / 'epoch_1.pth', '--out-dir', outside / 'out', '--score-thr', 0) == 0
    printed = capsys.readouterr()
    assert all(f'skipped {folder / name}' in printed.err for name in ('broken.jpg', 'notes.txt', 'empty.png'))
    assert '2 images done, 3 skipped' in printed.out
    assert 'ETA' in printed.out
    names = sorted(file.name for file in (outside / 'out').iterdir())
    assert mmcv.imread(str(outside / 'out' / '0.png')).shape == (8 * SIZE[0], 8 * SIZE[1], 3)  # at least 480 wide
    if task == 'segmentor':
        assert names == ['0.png', '0_labels.png', '1.png', '1_labels.png']
        labels = mmcv.imread(str(outside / 'out' / '0_labels.png'), flag='unchanged')
        assert labels.shape == SIZE and labels.dtype == np.uint8 and set(np.unique(labels)) <= {0, 1}
    else:
        assert names == ['0.png', '1.png', 'predictions.json']
        records = json.loads((outside / 'out' / 'predictions.json').read_text())
        assert [(record['file'], record['size']) for record in records] == [
            (str(folder / f'{index}.png'), list(SIZE)) for index in range(2)
        ]
        for found in (found for record in records for found in record['predictions']):
            x1, y1, x2, y2 = found['bbox']
            assert 0 <= x1 <= x2 <= SIZE[1] and 0 <= y1 <= y2 <= SIZE[0]
            assert coco_mask.decode(found['mask']).shape == SIZE


def test_predict_takes_a_file_or_an_array(trained, data_root):
    from internimage.openmmlab.inference import describe, draw, load_model, predict

    _, config, work = trained
    model = load_model(config, work / 'epoch_1.pth')
    file = data_root / 'images' / '3.png'
    image = mmcv.imread(str(file))
    from_file, from_array = predict(model, file), predict(model, image)
    assert describe(from_file, model.dataset_meta['classes']) == describe(from_array, model.dataset_meta['classes'])
    before = image.copy()
    picture = draw(model, image, from_array, score_thr=1.0, least_side=0)
    assert picture.shape == (*SIZE, 3) and picture.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_training_runs_from_any_folder_as_a_command(detector, outside):
    command = [sys.executable, TOOLS / 'train.py', detector, '--cfg-options', 'train_dataloader.batch_size=8']
    done = subprocess.run(command, cwd=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (outside / 'work_dirs' / 'detector' / 'epoch_1.pth').is_file()
    assert 'eta:' in done.stdout


# Bad input


def test_a_missing_config(outside, capsys):
    assert fails(capsys, outside, 'train', 'nowhere.py') == 'error: config nowhere.py does not exist'
    assert fails(capsys, outside, 'test', 'nowhere.py', 'x.pth') == 'error: config nowhere.py does not exist'


def test_a_config_that_is_not_python(outside, capsys):
    (outside / 'broken.py').write_text('model = dict(\n')
    assert 'error: config broken.py: SyntaxError' in fails(capsys, outside, 'train', 'broken.py')


def test_a_misspelt_option_of_the_model(detector, outside, capsys):
    line = fails(capsys, outside, 'train', detector, '--cfg-options', 'model.backbone.depht=18')
    assert f'config {detector}: model.backbone.depht is no key of the config: did you mean model.backbone.depth' in line
    line = fails(capsys, outside, 'train', detector, '--cfg-options', '+model.backbone.depht=18')
    assert f'config {detector}: model: ' in line and "unexpected keyword argument 'depht'" in line
    line = fails(capsys, outside, 'train', detector, '--cfg-options', 'model.backbone.type=ResNett')
    assert 'ResNett is not in the mmdet::model registry' in line


@pytest.mark.parametrize('task', ['detector', 'segmentor'])
def test_a_data_root_that_does_not_exist(task, outside, tmp_path_factory, capsys):
    config = write_config(tmp_path_factory.mktemp('config'), task, Path('data/nowhere'))
    expected = f'error: config {config}: train_dataloader: data_root data/nowhere does not exist in {outside}'
    assert fails(capsys, outside, 'train', config) == expected


def test_a_data_root_inside_a_wrapper(detector, outside, tmp_path_factory, capsys):
    extra = (
        "\ntrain_dataloader['dataset'] = dict(type='RepeatDataset', times=2, dataset=train_dataloader['dataset'])\n"
        "train_dataloader['dataset']['dataset']['data_root'] = '/nowhere'\n"
    )
    config = write_config(tmp_path_factory.mktemp('config'), 'detector', Path('/data'), extra)
    assert 'train_dataloader: data_root /nowhere does not exist' in fails(capsys, outside, 'train', config)


def test_an_annotation_file_that_does_not_exist(detector, outside, capsys):
    options = ('--cfg-options', 'val_dataloader.dataset.ann_file=other.json')
    assert 'val_dataloader: ' in (line := fails(capsys, outside, 'train', detector, *options))
    assert 'other.json does not exist' in line
    options = ('--cfg-options', 'val_evaluator.ann_file=/nowhere/boxes.json')
    line = fails(capsys, outside, 'train', detector, *options)
    assert 'val_evaluator: ann_file /nowhere/boxes.json does not exist' in line


def test_a_checkpoint_that_does_not_exist(detector, data_root, outside, capsys):
    expected = 'error: checkpoint nowhere.pth does not exist'
    assert fails(capsys, outside, 'test', detector, 'nowhere.pth') == expected
    assert fails(capsys, outside, 'infer', data_root / 'images', detector, 'nowhere.pth') == expected
    assert fails(capsys, outside, 'train', detector, '--resume', 'nowhere.pth') == expected
    assert fails(capsys, outside, 'train', detector, '--cfg-options', 'load_from=nowhere.pth') == expected
    options = ('model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=nowhere.pth')
    line = fails(capsys, outside, 'train', detector, '--cfg-options', *options)
    assert 'checkpoint nowhere.pth of init_cfg does not exist' in line


def test_a_checkpoint_of_another_model(trained, data_root, outside, capsys):
    _, config, work = trained
    torch.save({'state_dict': {'backbone.other.weight': torch.zeros(3)}}, outside / 'other.pth')
    for args in (
        ('test', config, 'other.pth'),
        ('infer', data_root / 'images', config, 'other.pth'),
        ('train', config, '--resume', 'other.pth'),
        ('train', config, '--cfg-options', 'load_from=other.pth'),
    ):
        line = fails(capsys, outside, *args)
        assert 'checkpoint other.pth is of another model' in line and '1 unexpected: backbone.other.weight' in line


def test_resuming_needs_the_state_of_a_training(trained, outside, capsys):
    _, config, work = trained
    torch.save({'state_dict': torch.load(work / 'epoch_1.pth', weights_only=False)['state_dict']}, outside / 'w.pth')
    line = fails(capsys, outside, 'train', config, '--resume', 'w.pth')
    assert 'no state of a training to resume' in line
    assert call('train', config, '--work-dir', outside / 'work', '--cfg-options', 'load_from=w.pth') == 0


def test_images_that_do_not_exist_or_are_none(trained, outside, capsys):
    _, config, work = trained
    line = fails(capsys, outside, 'infer', 'nowhere/*.png', config, work / 'epoch_1.pth')
    assert line == 'error: no file found for nowhere/*.png'
    (outside / 'notes.txt').write_text('no image')
    line = fails(capsys, outside, 'infer', 'notes.txt', config, work / 'epoch_1.pth')
    assert line == 'error: none of the 1 files of notes.txt is an image'


def test_infer_does_not_write_between_the_images(trained, data_root, outside, capsys):
    _, config, work = trained
    (outside / 'a.png').write_bytes((data_root / 'images' / '0.png').read_bytes())
    line = fails(capsys, outside, 'infer', 'a.png', config, work / 'epoch_1.pth', '--out-dir', '.')
    assert 'drawings could overwrite them' in line


def test_options_that_the_config_cannot_serve(detector, outside, tmp_path_factory, capsys):
    assert 'must end in .json or .pkl' in fails(capsys, outside, 'test', detector, 'x.pth', '--out', 'x.csv')
    config = write_config(tmp_path_factory.mktemp('config'), 'detector', Path('/data'), '\nauto_scale_lr = None\n')
    assert 'base_batch_size' in fails(capsys, outside, 'train', config, '--auto-scale-lr')
    line = fails(capsys, outside, 'infer', config, detector, 'x.pth', '--device', 'abacus')
    assert line.startswith('error: --device abacus: ')


def test_an_unexpected_error_keeps_its_traceback():
    def broken():
        raise ZeroDivisionError('a bug')

    with pytest.raises(ZeroDivisionError):
        load('common').one_line_errors(broken)()


# Parts


def test_output_names_never_collide():
    unique, taken = load('infer').unique, set()
    files = [Path('x/a.png'), Path('y/a.png'), Path('z/a.png'), Path('a.jpg'), Path('a_labels.png')]
    assert [unique(file, taken) for file in files] == ['a', 'a.png', 'a.png_2', 'a.jpg', 'a_labels.png']


def test_boxes_stay_exact_under_cpu_amp():
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    extractor = SingleRoIExtractor(dict(type='RoIAlign', output_size=1, sampling_ratio=1), 1, [1])
    load('train').keep_boxes_exact(torch.nn.Sequential(extractor))
    ramp = torch.arange(1024.0).expand(1, 1, 4, 1024).bfloat16()
    # The one sample is the middle of the box, x = 1001, half a pixel to the left as RoIAlign's pixel centres want it:
    # between the columns 1000 and 1001. A box in bfloat16, where numbers near 1000 are 4 apart, would start at 1000.
    out = extractor((ramp,), torch.tensor([[0, 999.0, 0.0, 1003.0, 2.0]]))
    assert out.dtype == torch.float32
    assert out.item() == (ramp[0, 0, 0, 1000].item() + ramp[0, 0, 0, 1001].item()) / 2
