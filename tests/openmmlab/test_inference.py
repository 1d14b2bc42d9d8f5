"""load_model, predict, draw and describe: what they take, threads, pure Python configs, and memory for large images."""

import io
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from PIL import Image
from pycocotools import mask as coco_mask
from tiny_models import detector, names, save_checkpoint, segmentor

from internimage.openmmlab import large_images
from internimage.openmmlab.drawing import draw_instances, with_palette
from internimage.openmmlab.inference import ImageError, describe, draw, load_model, predict, read_image

BGR = np.random.default_rng(0).integers(0, 256, (60, 83, 3), np.uint8)
GRAY = np.random.default_rng(1).integers(0, 256, (60, 83), np.uint8)


@pytest.fixture(scope='module')
def models(tmp_path_factory) -> dict:
    """{'detector' and 'segmentor': (config, checkpoint, model)}; the detector finds five masks as large as boxes."""
    folder, made = tmp_path_factory.mktemp('models'), {}
    for task, cfg, classes in (('detector', detector(), 2), ('segmentor', segmentor(), 3)):
        checkpoint = save_checkpoint(cfg, folder / f'{task}.pth', classes=names(classes))
        model = load_model(cfg, checkpoint)
        if task == 'detector':
            model.roi_head.mask_head.conv_logits.bias.data += 1
            model.roi_head.bbox_head.bbox_coder.stds = (2.0, 1.0, 3.0, 3.0)
        made[task] = cfg, checkpoint, model
    return made


def encoded(image: np.ndarray, suffix='.png') -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def rgb(**options) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(BGR[..., ::-1]), **options)


# What is an image


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


TAKEN = {
    'uint8 BGR': (BGR, BGR),
    'read-only': (read_only(BGR), BGR),
    'negative strides': (BGR[..., ::-1].copy()[..., ::-1], BGR),
    'every second column': (BGR.repeat(2, 1)[:, ::2], BGR),
    'transposed memory': (np.asfortranarray(BGR), BGR),
    'BGRA': (np.dstack([BGR, GRAY]), BGR),
    '(H, W)': (GRAY, GRAY[..., None].repeat(3, 2)),
    '(H, W, 1)': (GRAY[..., None], GRAY[..., None].repeat(3, 2)),
    'bytes': (encoded(BGR), BGR),
    'bytearray': (bytearray(encoded(BGR)), BGR),
    'bytes of gray': (encoded(GRAY), GRAY[..., None].repeat(3, 2)),
    'bytes with alpha': (encoded(np.dstack([BGR, GRAY])), BGR),
    'PIL RGB': (rgb(), BGR),
    'PIL L': (Image.fromarray(GRAY), GRAY[..., None].repeat(3, 2)),
    'PIL 1': (Image.fromarray(GRAY > 99), (GRAY > 99)[..., None].repeat(3, 2) * np.uint8(255)),
    'PIL LA': (Image.fromarray(np.dstack([GRAY, GRAY // 2])), GRAY[..., None].repeat(3, 2)),
    'PIL RGBA': (Image.fromarray(np.dstack([BGR[..., ::-1], GRAY])), BGR),
    'PIL P': (rgb().quantize(16), np.asarray(rgb().quantize(16).convert('RGB'))[..., ::-1]),
    'PIL CMYK': (rgb().convert('CMYK'), np.asarray(rgb().convert('CMYK').convert('RGB'))[..., ::-1]),
    'PIL of a file': (Image.open(io.BytesIO(encoded(BGR))), BGR),
    'PIL I;16': (Image.fromarray(GRAY.astype(np.uint16) * 257), GRAY[..., None].repeat(3, 2)),
}


@pytest.mark.parametrize('kind', TAKEN)
def test_what_is_read_as_an_image(kind):
    image, expected = TAKEN[kind]
    found = read_image(image)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


REFUSED = {
    'float 0..255': (BGR.astype(np.float32), '(60, 83, 3) and dtype float32'),
    'float 0..1': (BGR / 255, '(60, 83, 3) and dtype float64'),
    'float16': (BGR.astype(np.float16), 'dtype float16'),
    'NaN': (np.full(BGR.shape, np.nan, np.float32), 'dtype float32'),
    'uint16': (BGR.astype(np.uint16) * 257, 'dtype uint16'),
    'int64': (BGR.astype(np.int64), 'dtype int64'),
    'int8': (BGR.view(np.int8), 'dtype int8'),
    'bool': (BGR > 128, 'dtype bool'),
    'object': (BGR.astype(object), 'dtype object'),
    '(3, H, W)': (BGR.transpose(2, 0, 1), '(3, 60, 83) and dtype uint8'),
    '(1, H, W, 3)': (BGR[None], '(1, 60, 83, 3)'),
    '(H, W, 2)': (BGR[..., :2], '(60, 83, 2)'),
    '(H, W, 5)': (BGR[..., [0, 1, 2, 0, 1]], '(60, 83, 5)'),
    '(H,)': (BGR[0, :, 0], '(83,)'),
    'scalar': (np.uint8(3), 'numpy.uint8'),
    'empty': (np.zeros((0, 0, 3), np.uint8), '(0, 0, 3)'),
    'no columns': (np.zeros((5, 0), np.uint8), '(5, 0)'),
    'tensor HWC': (torch.from_numpy(BGR), 'torch.Tensor of shape (60, 83, 3) and dtype torch.uint8'),
    'tensor CHW': (torch.rand(3, 60, 83), 'torch.Tensor of shape (3, 60, 83) and dtype torch.float32'),
    'list of paths': (['a.jpg', 'b.jpg'], 'list'),
    'list of numbers': (BGR.tolist(), 'list'),
    'None': (None, 'NoneType'),
    'number': (3, 'int'),
    'open file': (io.BytesIO(encoded(BGR)), 'io.BytesIO'),
    'no bytes': (b'', '0 bytes'),
    'other bytes': (b'no image', '8 bytes: not an image'),
    'PIL F': (Image.fromarray(GRAY.astype(np.float32)), 'mode F'),
    'PIL I': (Image.fromarray(GRAY.astype(np.int32)), 'mode I'),
    'PIL without pixels': (Image.new('RGB', (0, 5)), 'size (0, 5)'),
    'float TIFF': (encoded(BGR.astype(np.float32) / 255, '.tiff'), 'float32'),
}


@pytest.mark.parametrize('kind', REFUSED)
def test_what_is_refused_is_named(kind, models):
    image, named = REFUSED[kind]
    for function in (read_image, lambda image: predict(models['segmentor'][2], image)):
        with pytest.raises(ImageError) as error:
            function(image)
        assert named in str(error.value) and '\n' not in str(error.value)
    if isinstance(image, (np.ndarray, torch.Tensor, list)):
        assert '(H, W, 3) BGR' in str(error.value)


def test_files_that_are_no_image(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'text.png').write_text('no image')
    (tmp_path / 'half.png').write_bytes(encoded(BGR)[:100])
    for name, reason in {
        'pipe': 'not a file',  # reading it would wait for ever
        '/dev/zero': 'not a file',
        '.': 'Is a directory',
        'nowhere.png': 'No such file or directory',
        'empty.png': 'it is empty',
        'text.png': 'not an image',
        'half.png': 'not an image',
        'null\0byte.png': 'null byte',
        'x' * 300: 'File name too long',
    }.items():
        with pytest.raises(ImageError, match=reason):
            read_image(tmp_path / name)


@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
@pytest.mark.parametrize('shape', [(60, 83), (60, 83, 3)])
def test_files_of_16_bits(suffix, shape, tmp_path):
    content = np.random.default_rng(2).integers(0, 4096, shape, np.uint16)
    content.flat[0] = 4095
    for name, image, bits in (('12', content, 12), ('16', content * 16, 16), ('dark16', content + 1, 16)):
        file = tmp_path / f'{name}{suffix}'
        file.write_bytes(encoded(image, suffix))
        narrow = (image >> 4).astype(np.uint8)
        narrow = narrow if narrow.ndim == 3 else narrow[..., None].repeat(3, 2)
        # Of 16 bits, as OpenMMLab reads them.
        np.testing.assert_array_equal(read_image(file), narrow if bits == 12 else cv2.imread(str(file)))


def test_12_bits_are_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('internimage.openmmlab.images.print_log', lambda text, logger: said.append(text))
    (tmp_path / 'x.png').write_bytes(encoded(np.full((4, 5), 4000, np.uint16)))
    assert read_image(tmp_path / 'x.png').max() == 250
    assert said == [f'{tmp_path}/x.png: 16 bits per channel, no value above 4000: read as 12 bits']


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_photos_are_turned_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb().save(tmp_path / 'x.png', exif=exif)
    expected = np.rot90(BGR, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    for image in (tmp_path / 'x.png', str(tmp_path / 'x.png'), (tmp_path / 'x.png').read_bytes()):
        np.testing.assert_array_equal(read_image(image), expected)
    np.testing.assert_array_equal(read_image(Image.open(tmp_path / 'x.png')), expected)


@pytest.mark.parametrize('task', ['detector', 'segmentor'])
def test_predict_and_draw_take_the_same(task, models, tmp_path):
    _, _, model = models[task]
    (tmp_path / 'x.png').write_bytes(encoded(BGR))
    expected = describe(predict(model, BGR), model.dataset_meta['classes'])
    drawn = draw(model, BGR, predict(model, BGR), score_thr=0)
    for image in (tmp_path / 'x.png', str(tmp_path / 'x.png'), encoded(BGR), rgb(), np.dstack([BGR, GRAY])):
        result = predict(model, image)
        assert describe(result, model.dataset_meta['classes']) == expected
        np.testing.assert_array_equal(draw(model, image, result, score_thr=0), drawn)


# Threads and configs


def test_six_threads_load_predict_and_draw(models):
    images = [np.random.default_rng(seed).integers(0, 256, (40 + seed, 70 - seed, 3), np.uint8) for seed in range(4)]

    def answer(model, image):
        result = predict(model, image)
        drawn = draw(model, image, result, score_thr=0)
        return describe(result, model.dataset_meta['classes']), drawn

    jobs = [(models[task][2], image) for image in images for task in models] * 3
    alone = [answer(*job) for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda job: answer(*job), jobs))
        loaded = list(pool.map(lambda task: load_model(*models[task][:2]), list(models) * 6))
    for (found, picture), (expected, drawn) in zip(together, alone, strict=True):
        assert found == expected
        np.testing.assert_array_equal(picture, drawn)
    for task, model in zip(list(models) * 6, loaded, strict=True):
        assert type(model) is type(models[task][2])


def test_drawing_leaves_random_numbers_alone(models):
    _, _, model = models['detector']
    result = predict(model, BGR)
    np.random.seed(5)
    draw(model, BGR, result, score_thr=0)
    after = np.random.rand()
    np.random.seed(5)
    assert np.random.rand() == after


PURE_PYTHON = """
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmdet.datasets.transforms import Resize
from mmseg.models import EncoderDecoder, FCNHead, ResNet, SegDataPreProcessor
from torch.nn import BatchNorm2d

model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(type=SegDataPreProcessor, mean=[127., 120., 110.], std=[60., 61., 62.], bgr_to_rgb=True),
    backbone=dict(type=ResNet, depth=18, base_channels=8, stem_channels=8),
    decode_head=dict(type=FCNHead, in_channels=64, in_index=3, channels=16, num_convs=1, concat_input=False,
                     num_classes=3, norm_cfg=dict(type=BatchNorm2d)),
    test_cfg=dict(mode='whole'))
dataset = dict(type=BaseSegDataset, metainfo=dict(classes=('a', 'b', 'c')), pipeline=[
    dict(type=LoadImageFromFile), dict(type=Resize, scale=(64, 48), keep_ratio=True), dict(type=LoadAnnotations),
    dict(type=PackSegInputs)])
test_dataloader = dict(dataset=dataset)
"""


@pytest.mark.parametrize('scope', ['', "default_scope = 'mmseg'\n", 'default_scope = None\n'])
@pytest.mark.parametrize('meta', [{}, {'classes': ('a', 'b', 'c')}])
def test_a_config_in_pure_python(scope, meta, models, tmp_path):
    (tmp_path / 'config.py').write_text(PURE_PYTHON + scope)
    weights = torch.load(models['segmentor'][1])['state_dict']
    torch.save({'state_dict': weights, 'meta': {'dataset_meta': meta}}, tmp_path / 'x.pth')
    model = load_model(str(tmp_path / 'config.py'), tmp_path / 'x.pth')
    assert list(model.dataset_meta['classes']) == ['a', 'b', 'c']
    expected = predict(models['segmentor'][2], BGR).pred_sem_seg.data
    assert torch.equal(predict(model, BGR).pred_sem_seg.data, expected)


@pytest.mark.parametrize(
    'palette, expected',
    [
        (None, None),
        ([], None),
        ([(1, 2, 3)], None),
        ('random', None),
        ('no palette', None),
        ([(1, 2), (3, 4), (5, 6)], None),
        ([(1, 2, 3), (4, 5, 6), (7, 8, 300)], None),
        ([(1, 2, 3), (4, 5), (7, 8, 9)], None),
        ([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [(1, 2, 3), (4, 5, 6), (7, 8, 9)]),
        (((1, 2, 3), (4, 5, 6), (7, 8, 9), (0, 0, 0)), [(1, 2, 3), (4, 5, 6), (7, 8, 9)]),
        ('coco', [(220, 20, 60), (119, 11, 32), (0, 0, 142)]),
    ],
)
def test_a_palette_of_one_color_per_class(palette, expected):
    meta = {'classes': names(3)} | ({} if palette is None else {'palette': palette})
    found = with_palette(meta)['palette']
    assert found == (expected or with_palette({'classes': names(3)})['palette'])
    assert len(set(found)) == 3 and all(type(value) is int for color in found for value in color)


@pytest.mark.parametrize('meta', [{}, {'palette': [(1, 2, 3)]}, {'palette': [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}])
@pytest.mark.parametrize('task', ['detector', 'segmentor'])
def test_a_checkpoint_without_a_palette_is_drawn(task, meta, models, tmp_path):
    cfg = models[task][0]
    meta = {'classes': names(3), **meta}
    model = load_model(cfg, save_checkpoint(cfg, tmp_path / 'x.pth', **meta))
    assert model.dataset_meta['palette'] == with_palette(meta)['palette']
    assert draw(model, BGR, predict(model, BGR), score_thr=0).shape[2] == 3


# Large images


@pytest.mark.parametrize('flip', [None, 'horizontal', 'vertical'])
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_label_maps_in_little_memory_are_those_of_mmseg(flip, align_corners, memory_format, dtype, monkeypatch):
    """Every label, also of equal scores, which bfloat16 has many of."""
    monkeypatch.setattr(large_images, 'MANY_SCORES', 0)
    model = SimpleNamespace(align_corners=align_corners, decode_head=SimpleNamespace(threshold=0.5))
    for (h, w), size, padding, classes in (
        ((48, 64), (300, 411), (0, 0, 0, 0), 7),
        ((48, 64), (131, 97), (1, 2, 3, 0), 21),
        ((90, 40), (45, 501), (0, 8, 0, 2), 5),
        ((300, 200), (70, 90), (0, 0, 0, 0), 150),
    ):
        scores = torch.randn(2, classes, h, w).to(dtype).contiguous(memory_format=memory_format)
        meta = dict(ori_shape=size, img_padding_size=padding, flip=flip is not None, flip_direction=flip)
        samples = [SegDataSample(metainfo=meta) for _ in range(4)]
        expected = BaseSegmentor.postprocess_result(model, scores.contiguous(), samples[:2])
        for found, want in zip(large_images._label_maps(model, scores, samples[2:]), expected, strict=True):
            assert 'seg_logits' not in found and 'seg_logits' in want
            assert found.pred_sem_seg.data.dtype == want.pred_sem_seg.data.dtype
            assert torch.equal(found.pred_sem_seg.data, want.pred_sem_seg.data)


def test_scores_that_are_not_finite_and_binary_scores(monkeypatch):
    monkeypatch.setattr(large_images, 'MANY_SCORES', 0)
    model = SimpleNamespace(align_corners=False, decode_head=SimpleNamespace(threshold=0.3))
    scores = torch.randn(1, 6, 20, 30)
    scores[0, 2, :5], scores[0, 4, 3:8], scores[0, 1, 9] = torch.nan, torch.nan, torch.inf
    for x in (scores, scores[:, :1]):
        want, found = (SegDataSample(metainfo=dict(ori_shape=(101, 77))) for _ in range(2))
        BaseSegmentor.postprocess_result(model, x, [want])
        large_images._label_maps(model, x, [found])
        assert torch.equal(found.pred_sem_seg.data, want.pred_sem_seg.data)


@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_a_large_label_map_never_holds_all_classes(mode, tmp_path, monkeypatch):
    cfg = segmentor(classes=40)
    if mode == 'slide':
        cfg.model.test_cfg = dict(mode='slide', crop_size=(32, 32), stride=(20, 24))
    model = load_model(cfg, save_checkpoint(cfg, tmp_path / 'x.pth', classes=names(40)))
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    image = np.random.default_rng(3).integers(0, 256, (300, 411, 3), np.uint8)
    small = predict(model, image)
    assert small.seg_logits.data.shape == (40, 300, 411)

    sizes, plain = [], large_images.resize

    def resize(scores, **options):
        sizes.append(scores.shape[1])
        return plain(scores, **options)

    monkeypatch.setattr(large_images, 'MANY_SCORES', 40 * 300 * 411 - 1)
    monkeypatch.setattr(
        large_images, 'resize', lambda x, *args, **kw: sizes.append(x.shape[1]) or resize(x, *args, **kw)
    )
    large = predict(model, image)
    assert torch.equal(large.pred_sem_seg.data, small.pred_sem_seg.data) and 'seg_logits' not in large
    assert set(sizes) == {1} and len(small.pred_sem_seg.data.unique()) > 1


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (1, 9), (9, 1), (5, 7), (48, 64)):
        for share in (0, 0.03, 0.5, 1):
            for edges in ((), (0,), (-1,), (0, -1)):
                mask = rng.random(shape) < share
                mask[list(edges)] = True
                assert large_images.run_length(mask) == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_masks_one_at_a_time_are_those_of_mmdet(models):
    cfg, checkpoint, model = models['detector']
    image = np.random.default_rng(3).integers(0, 256, (97, 150, 3), np.uint8)
    dense, coded = predict(model, image), predict(model, image, rle_masks=True)
    head = model.roi_head.mask_head
    ours = head.__dict__.pop('_predict_by_feat_single')
    try:
        plain = predict(model, image)
    finally:
        head._predict_by_feat_single = ours
    for result in (dense, coded):
        assert torch.equal(result.pred_instances.bboxes, plain.pred_instances.bboxes)
    assert dense.pred_instances.masks.shape == (5, 97, 150) and dense.pred_instances.masks.dtype == torch.bool
    assert torch.equal(dense.pred_instances.masks, plain.pred_instances.masks) and dense.pred_instances.masks.any()
    np.testing.assert_array_equal(
        coco_mask.decode(coded.pred_instances.masks).transpose(2, 0, 1), dense.pred_instances.masks
    )
    assert describe(coded, names(2)) == describe(dense, names(2)) == describe(dense.to_dict(), names(2))
    drawn = [draw(model, image, result, score_thr=0) for result in (dense, coded)]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize('rle_masks', [False, True])
def test_an_image_without_detections(rle_masks, models):
    cfg, checkpoint, _ = models['detector']
    cfg = cfg.copy()
    cfg.model.test_cfg.rcnn.score_thr = 0.99
    model = load_model(cfg, checkpoint)
    result = predict(model, BGR, rle_masks=rle_masks)
    assert len(result.pred_instances.masks) == 0 and describe(result, names(2)) == []
    np.testing.assert_array_equal(draw(model, BGR, result, least_side=0), BGR[..., ::-1])


def test_boxes_that_cannot_be_drawn_are_left_out():
    boxes = torch.tensor([[5.0, 5, 20, 30], [torch.nan, 0, 5, 5], [9, 9, 3, 12]])
    found = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1, 1]), scores=torch.tensor([0.9, 0.8, 0.7]))
    meta = with_palette({'classes': names(2)})
    args = (list(meta['classes']), meta['palette'])
    picture = np.zeros((60, 83, 3), np.uint8)
    drawn = draw_instances(picture, found, [0, 1, 2], *args)
    np.testing.assert_array_equal(drawn, draw_instances(picture, found, [0], *args))
    assert tuple(drawn[20, 5]) == meta['palette'][0] and not picture.any()


@pytest.mark.slow
def test_300_predictions_in_flat_memory(models):
    _, _, model = models['detector']
    status = pathlib.Path('/proc/self/statm')
    if not status.exists():
        pytest.skip('needs /proc')
    used = []
    for _ in range(300):
        draw(model, BGR, predict(model, BGR), score_thr=0, least_side=0)
        used.append(int(status.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20)
    assert used[-1] - used[50] < 20, f'{used[50]:.0f} MiB after 50, {used[-1]:.0f} MiB after 300'
