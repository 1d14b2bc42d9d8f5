"""Predictor: what it takes, batches, tiles, videos, threads; the models are untrained."""

import http.server
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from tiny_models import detector, names, save_checkpoint, segmentor

from internimage.checkpoint import CheckpointError
from internimage.openmmlab import Predictor, Results
from internimage.openmmlab.cfg_options import ConfigError
from internimage.openmmlab.inference import ImageError, describe, load_model, predict
from internimage.openmmlab.tiles import _is_cut, check_tiles, merged, segment_in_tiles, tile_windows

BGR = np.random.default_rng(0).integers(0, 256, (60, 83, 3), np.uint8)
RGB = np.ascontiguousarray(BGR[..., ::-1])


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """{task: (config, checkpoint)}."""
    folder, made = tmp_path_factory.mktemp('models'), {}
    for task, cfg, classes in (('detector', detector(), 2), ('segmentor', segmentor(), 3)):
        cfg.dump(folder / f'{task}.py')
        made[task] = folder / f'{task}.py', save_checkpoint(cfg, folder / f'{task}.pth', classes=names(classes))
    _balance(*made['segmentor'])
    return made


def _balance(config: Path, checkpoint: Path) -> None:
    """Makes an untrained segmentor find every class."""
    scores = predict(load_model(config, checkpoint), BGR).seg_logits.data
    content = torch.load(checkpoint)
    content['state_dict']['decode_head.conv_seg.bias'] -= scores.mean((1, 2))
    torch.save(content, checkpoint)


@pytest.fixture(scope='module')
def predictors(files) -> dict[str, Predictor]:
    made = {task: Predictor(*files[task], device='cpu', batch_size=4) for task in files}
    head = made['detector'].model.roi_head
    head.mask_head.conv_logits.bias.data += 1
    head.bbox_head.bbox_coder.stds = (2.0, 1.0, 3.0, 3.0)
    return made


def same(found: Results, expected: Results, tolerance: float = 1e-3) -> bool:
    if expected.label_map is not None:
        return np.array_equal(found.label_map, expected.label_map)
    return (
        found.labels.tolist() == expected.labels.tolist()
        and np.allclose(found.boxes, expected.boxes, atol=tolerance)
        and np.allclose(found.scores, expected.scores, atol=tolerance)
        and np.mean(found.masks != expected.masks) < 1e-3
    )


# What it takes


def test_every_kind_of_image_gives_the_same(predictors, tmp_path):
    predictor = predictors['detector']
    expected = predictor(BGR)
    assert len(expected) == 5 and expected.masks.shape == (5, 60, 83) and expected.masks.any()
    cv2.imwrite(str(tmp_path / 'x.png'), BGR)
    tensor = torch.from_numpy(RGB).permute(2, 0, 1)
    for image, options in (
        (tmp_path / 'x.png', {}),
        (str(tmp_path / 'x.png'), {}),
        ((tmp_path / 'x.png').read_bytes(), {}),
        (Image.fromarray(RGB), {}),
        (RGB, dict(channels='rgb')),
        (BGR, dict(channels='bgr')),
        (tensor, {}),
        (tensor / 255, {}),
        (tensor.double() / 255, {}),
        (tensor.flip(0), dict(channels='bgr')),
    ):
        assert same(predictor(image, **options), expected, 0)
    assert not same(predictor(RGB), expected)
    for several in ([BGR, RGB], (BGR, RGB), torch.stack([tensor, tensor.flip(0)])):
        found = predictor(several)
        assert isinstance(found, list) and same(found[0], expected) and same(found[1], predictor(RGB))


def test_the_fields_are_those_of_predict(predictors):
    for task, predictor in predictors.items():
        result, sample = predictor(BGR), predict(predictor.model, BGR)
        assert result.records() == describe(sample, predictor.names)
        assert set(result.times) == {'read', 'preprocess', 'predict', 'convert'} and min(result.times.values()) >= 0
        assert result.shape == (60, 83) and result.names == names(len(result.names))
        np.testing.assert_array_equal(result.image, BGR)
        if task == 'segmentor':
            assert result.found_labels() == [0, 1, 2]
            np.testing.assert_array_equal(result.label_map, sample.pred_sem_seg.data[0])
            assert result.label_map.dtype == np.uint8 and len(result) == 0
        else:
            np.testing.assert_array_equal(result.masks, sample.pred_instances.masks)


def test_a_folder_a_glob_and_a_generator(predictors, tmp_path):
    predictor = predictors['segmentor']
    for index in range(3):
        cv2.imwrite(str(tmp_path / f'{index}.png'), np.roll(BGR, 20 * index, 1))
    (tmp_path / '.hidden').write_text('no image')
    for source in (tmp_path, str(tmp_path / '*.png'), str(tmp_path)):
        results = predictor(source)
        assert [Path(result.path).name for result in results] == ['0.png', '1.png', '2.png']
        np.testing.assert_array_equal(results[1].image, np.roll(BGR, 20, 1))  # read again
    read = []

    def images():
        for index in range(9):
            read.append(index)
            yield np.roll(BGR, index, 1)

    results = predictor(images())
    assert not read
    next(results)
    assert len(read) == predictor.batch_size
    assert len(list(results)) == 8
    with pytest.raises(ImageError, match='no file found'):
        predictor(tmp_path / '*.jpg')
    with pytest.raises(ImageError, match='No such file'):
        predictor(tmp_path / 'nowhere.png')


@pytest.mark.parametrize(
    'image, said',
    [
        (torch.zeros(60, 83, 3), r'\(60, 83, 3\).*expected \(3, H, W\)'),
        (torch.full((3, 4, 5), 2.0), 'values from 2 to 2; expected 0 to 1'),
        (torch.full((3, 4, 5), float('nan')), 'expected 0 to 1'),
        (torch.zeros(3, 4, 5, dtype=torch.int64), 'torch.int64'),
        (BGR / 255, 'float64'),
        (None, 'NoneType'),
        (7, 'int'),
    ],
)
def test_what_is_no_image_is_named(image, said, predictors):
    with pytest.raises(ImageError, match=said):
        predictors['segmentor'](image)


def test_an_address(predictors, tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), BGR)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        address = f'http://127.0.0.1:{server.server_address[1]}'
        result = predictors['segmentor'](f'{address}/x.png')
        assert same(result, predictors['segmentor'](BGR)) and result.path == f'{address}/x.png'
        with pytest.raises(ImageError, match='404'):
            predictors['segmentor'](f'{address}/y.png')
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_it_is_made_of(files):
    config, checkpoint = files['segmentor']
    predictor = Predictor(Config.fromfile(config), str(checkpoint), dtype='bfloat16', device=torch.device('cpu'))
    assert next(predictor.model.parameters()).dtype == torch.bfloat16
    assert predictor(BGR).label_map.shape == (60, 83)
    with pytest.raises(ConfigError, match='does not exist'):
        Predictor('no_such_config', checkpoint)
    with pytest.raises(CheckpointError, match='does not exist'):
        Predictor(config, 'nowhere.pth')
    for wrong in (dict(device='abacus'), dict(dtype='int8'), dict(dtype='much'), dict(batch_size=0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Predictor(config, checkpoint, **wrong)


def test_an_official_file_by_its_name(monkeypatch, tmp_path, files):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(
        'internimage.checkpoint.files.fetch', lambda address: asked.append(address) or files['detector'][1]
    )
    name = 'mask_rcnn_internimage_t_fpn_1x_coco.pth'
    Predictor(files['detector'][0], name)
    assert asked == [f'https://huggingface.co/OpenGVLab/InternImage/resolve/main/{name}']
    Path(name).write_bytes(files['detector'][1].read_bytes())  # a local file comes first
    Predictor(files['detector'][0], name)
    assert len(asked) == 1


# Batches


@pytest.mark.parametrize('task', ['detector', 'segmentor'])
def test_a_batch_gives_what_single_images_give(task, predictors):
    """Images of several sizes; only those that are padded to one size run together."""
    rng = np.random.default_rng(1)
    sizes = [(60, 83), (83, 60), (60, 83), (61, 84), (40, 83), (60, 83), (83, 60)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    predictor = predictors[task]
    calls = []
    handle = predictor.model.backbone.register_forward_pre_hook(lambda _, args: calls.append(tuple(args[0].shape)))
    try:
        together = predictor.predict(images)
    finally:
        handle.remove()
    assert sum(shape[0] for shape in calls) == 7 and max(shape[0] for shape in calls) >= 3 and len(calls) < 7
    for image, result in zip(images, together, strict=True):
        assert same(result, predictor(image)) and result.shape == image.shape[:2]


def test_several_views(files):
    single, several = (Predictor(*files['segmentor'], tta=tta, batch_size=3) for tta in (False, True))
    mirrored = BGR[:, ::-1]
    assert not same(single(BGR), several(BGR))
    together = several([BGR, mirrored])
    assert same(together[0], several(BGR)) and same(together[1], several(mirrored))
    # The views of a mirrored image are those of the image, but for the rounding of sizes.
    assert np.mean(together[0].label_map != together[1].label_map[:, ::-1]) < 0.05
    with pytest.raises(ConfigError, match='no --tta'):
        Predictor(*files['detector'], tta=True)


@pytest.mark.parametrize('task', ['detector', 'segmentor'])
def test_threads_share_a_predictor(task, predictors):
    predictor = predictors[task]
    jobs = [(np.roll(BGR, 9 * i, 1), tile) for i in range(4) for tile in (None, (48, 64))]
    before = {name: id(value) for name, value in vars(predictor).items()}

    def answer(job):
        return predictor(job[0], tile=job[1])

    alone = list(map(answer, jobs))
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(answer, jobs * 2))
    assert all(same(found, expected, 0) for found, expected in zip(together, alone * 2, strict=True))
    assert {name: id(value) for name, value in vars(predictor).items()} == before


# Tiles


def test_windows_cover_the_image():
    assert tile_windows((100, 250), (60, 100), 0.2) == [
        (x, y, x + 100, y + 60) for y in (0, 40) for x in (0, 80, 150)
    ]  # fmt: skip
    assert tile_windows((50, 90), (60, 100), 0.5) == [(0, 0, 90, 50)]
    assert tile_windows((64, 64), (32, 64), 0) == [(0, 0, 64, 32), (0, 32, 64, 64)]
    for wrong in ((31, 0.2), ((64, 16), 0.2), (64, 1.0), (64, -0.1), ((64,), 0)):
        with pytest.raises(ValueError, match='tile|overlap'):
            check_tiles(*wrong)


def part(boxes, scores, labels, window, shape=(100, 200), masks=True) -> Results:
    """What a window found, its masks as large as its boxes."""
    from internimage.openmmlab.large_images import run_length

    codes = []
    for x1, y1, x2, y2 in boxes:
        mask = np.zeros(shape, bool)
        mask[y1:y2, x1:x2] = True
        codes.append(run_length(mask))
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Results(
        names(2), [(0, 0, 0)] * 2, shape, boxes, np.array(scores), np.array(labels, int), codes if masks else None
    )


LEFT, RIGHT = (0, 0, 120, 100), (80, 0, 200, 100)


@pytest.mark.parametrize(
    'left, right, expected',
    [
        # whole in both windows: the better one
        ([((85, 10, 110, 30), 0.6)], [((85, 10, 110, 31), 0.8)], [((85, 10, 110, 31), 0.8)]),
        # whole in the left one; the right one sees its end, with a better score: the whole, with that score
        ([((40, 10, 100, 30), 0.6)], [((80, 10, 100, 30), 0.9)], [((40, 10, 100, 30), 0.9)]),
        # larger than the overlap: united
        ([((20, 10, 120, 30), 0.6)], [((80, 9, 190, 30), 0.9)], [((20, 9, 190, 30), 0.9)]),
        # two that one window tells apart, one box around both in the other: the pair that agrees more
        (
            [((85, 10, 110, 30), 0.6), ((85, 14, 110, 34), 0.5)],
            [((85, 10, 110, 31), 0.4)],
            [((85, 10, 110, 30), 0.6), ((85, 14, 110, 34), 0.5)],
        ),
        # another place, and nothing
        ([((5, 5, 30, 30), 0.6)], [((150, 5, 180, 30), 0.7)], [((150, 5, 180, 30), 0.7), ((5, 5, 30, 30), 0.6)]),
        ([], [], []),
    ],
)
@pytest.mark.parametrize('masks', [True, False])
def test_each_object_once(left, right, expected, masks):
    parts = [
        part([box for box, _ in found], [score for _, score in found], [1] * len(found), window, masks=masks)
        for found, window in ((left, LEFT), (right, RIGHT))
    ]
    result = merged(parts, [LEFT, RIGHT])
    assert [(tuple(box), score) for box, score in zip(result.boxes.tolist(), result.scores, strict=True)] == expected
    if masks:
        for mask, (x1, y1, x2, y2) in zip(result.masks, result.boxes.astype(int), strict=True):
            assert mask[y1:y2, x1:x2].mean() > 0.95 and mask.sum() == mask[y1:y2, x1:x2].sum()


def test_other_classes_stay_apart():
    box = (85, 10, 110, 30)
    assert len(merged([part([box], [0.5], [0], LEFT), part([box], [0.6], [1], RIGHT)], [LEFT, RIGHT])) == 2
    touching = np.array([[0, 0, 50, 50], [60, 5, 120, 50], [60, 5, 117, 100]], float)
    assert _is_cut(touching, LEFT, (100, 200)).tolist() == [False, True, False]


def test_an_object_over_four_windows():
    windows = tile_windows((100, 200), (60, 120), 0.3)
    assert len(windows) == 4
    x1, y1, x2, y2 = whole = 10, 10, 190, 90
    parts = [
        part([(max(x1, a), max(y1, b), min(x2, c), min(y2, d))], [0.5 + i / 10], [0], (a, b, c, d))
        for i, (a, b, c, d) in enumerate(windows)
    ]
    result = merged(parts, windows)
    assert result.boxes.tolist() == [list(whole)] and result.scores.tolist() == [0.8]
    assert result.masks[0][y1:y2, x1:x2].all()


def test_detections_of_tiles_are_where_the_tiles_are(predictors):
    predictor = predictors['detector']
    image = np.vstack([BGR, BGR[:40]])
    result = predictor(image, tile=(60, 83), overlap=0.2)
    windows = tile_windows(image.shape[:2], (60, 83), 0.2)
    assert result.shape == (100, 83) and result.masks.shape[1:] == (100, 83) and len(windows) == 2
    first = predictor(BGR)
    assert any(np.allclose(box, first.boxes[0], atol=1e-3) for box in result.boxes)
    assert same(predictor(BGR, tile=128), first)  # one tile
    assert set(result.times) == {'read', 'preprocess', 'predict', 'convert'}


@pytest.mark.parametrize(
    'size, tile', [((97, 131), (48, 64)), ((64, 300), (64, 96)), ((300, 64), (96, 64)), ((30, 40), (48, 64))]
)
@pytest.mark.parametrize('overlap', [0, 0.25, 0.6])
def test_a_segmentor_slides_as_mmseg_does(size, tile, overlap, predictors):
    """The same labels as mmseg's own sliding window over the whole image, but where scores are nearly equal."""
    model = predictors['segmentor'].model
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(ori_shape=size, img_shape=size, pad_shape=size))
    found = segment_in_tiles(model, torch.from_numpy(image).permute(2, 0, 1), sample, tile, overlap)
    data = model.data_preprocessor(
        dict(inputs=[torch.from_numpy(image).permute(2, 0, 1)], data_samples=[sample]), False
    )
    before = dict(model.test_cfg)
    model.test_cfg.update(
        mode='slide', crop_size=tile, stride=tuple(max(1, int(side * (1 - overlap))) for side in tile)
    )
    try:
        with torch.no_grad():
            scores = model.slide_inference(data['inputs'], [sample.metainfo])[0]
    finally:
        model.test_cfg.clear()
        model.test_cfg.update(before)
    best = scores.topk(2, 0).values
    differing = torch.from_numpy(found) != scores.argmax(0)
    assert (best[0] - best[1])[differing].abs().max().item() < 1e-4 if differing.any() else True
    assert differing.float().mean() < 1e-3
    assert found.dtype == np.uint8
    assert np.array_equal(predictors['segmentor'](image, tile=tile, overlap=overlap).label_map, found)


# Videos


@pytest.fixture
def video(tmp_path) -> Path:
    """Ten frames, 12 a second."""
    writer = cv2.VideoWriter(str(tmp_path / 'x.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 12, (84, 60))
    for index in range(10):
        writer.write(np.roll(np.hstack([BGR, BGR[:, :1]]), 8 * index, 1))
    writer.release()
    return tmp_path / 'x.avi'


def test_a_video(video, predictors):
    predictor = predictors['segmentor']
    results = list(predictor(video))
    assert [result.frame for result in results] == list(range(10)) and results[0].path == str(video)
    again = list(predictor.video(video, video.parent / 'new' / 'drawn.mp4'))
    assert all(same(one, other) for one, other in zip(results, again, strict=True))
    drawn = cv2.VideoCapture(str(video.parent / 'new' / 'drawn.mp4'))
    assert drawn.get(cv2.CAP_PROP_FPS) == 12 and drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 10
    _, frame = drawn.read()
    expected = cv2.cvtColor(results[0].plot(), cv2.COLOR_RGB2BGR)
    assert frame.shape == expected.shape and np.abs(frame.astype(int) - expected).mean() < 20  # lossy
    assert [path.name for path in (video.parent / 'new').iterdir()] == ['drawn.mp4']


def test_a_video_that_is_left_early_is_kept(video, predictors):
    stream = predictors['segmentor'].video(video, video.parent / 'drawn.mp4')
    next(stream)
    assert not (video.parent / 'drawn.mp4').exists()
    stream.close()
    assert cv2.VideoCapture(str(video.parent / 'drawn.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) >= 1


def test_what_is_no_video(tmp_path, predictors, video):
    (tmp_path / 'text.mp4').write_text('no video')
    for source, said in (('text.mp4', 'not a video'), ('nowhere.mp4', 'no such file')):
        with pytest.raises(ImageError, match=said):
            list(predictors['segmentor'](tmp_path / source))
    with pytest.raises(ImageError, match=r'written as \.avi'):
        list(predictors['segmentor'].video(video, tmp_path / 'x.gif'))


@pytest.mark.slow
def test_500_images_in_flat_memory(files, tmp_path):
    """Resident memory after 500 files, from a generator and one by one, is that after 100."""
    status = Path('/proc/self/statm')
    if not status.exists():
        pytest.skip('needs /proc')
    predictor = Predictor(*files['detector'], batch_size=8)
    for index in range(50):
        cv2.imwrite(str(tmp_path / f'{index}.png'), np.roll(BGR.repeat(6, 0).repeat(6, 1), 7 * index, 1))
    paths, used = sorted(tmp_path.glob('*.png')), []
    for result in predictor(iter(paths * 10)):
        result.plot()
        used.append(int(status.read_text().split()[1]) * 4096 / 2**20)
    assert len(used) == 500
    assert used[-1] - used[100] < 20, f'{used[100]:.0f} MiB after 100, {used[-1]:.0f} MiB after 500'
