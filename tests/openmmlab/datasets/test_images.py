"""Training, test and inference read an image alike; what is unusual in it is said before a run."""

import io

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image
from test_label_maps import config, write

from internimage.openmmlab.datasets.checks import check_data
from internimage.openmmlab.datasets.checks.errors import DataError
from internimage.openmmlab.images import read_image

HEIGHT, WIDTH = 20, 30
RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GRAY = COLOURS[..., 0]
WIDE = RANDOM.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)


def encode(pixels, suffix='png', **options) -> bytes:
    if isinstance(pixels, np.ndarray) and pixels.dtype != np.uint8:
        return cv2.imencode(f'.{suffix}', pixels)[1].tobytes()
    pixels = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    file = io.BytesIO()
    pixels.save(file, suffix, **options)
    return file.getvalue()


def turned(orientation):
    image = Image.fromarray(COLOURS)
    exif = image.getexif()
    exif[0x0112] = orientation
    return encode(image, 'jpeg', exif=exif)


# {kind: (file, what is said of it, the word for "as mmcv reads it" or the right pixels)}
IMAGES = {
    'colour': (encode(COLOURS), '', None),
    'jpeg': (encode(COLOURS, 'jpeg'), '', None),
    'gray': (encode(GRAY), '', np.dstack([GRAY] * 3)),
    'palette': (encode(Image.fromarray(COLOURS).quantize(16)), '', None),
    'gray + alpha': (encode(np.dstack([GRAY, GRAY])), 'alpha channel, which is dropped', np.dstack([GRAY] * 3)),
    'RGBA': (encode(np.dstack([COLOURS, GRAY])), 'alpha channel, which is dropped', COLOURS[..., ::-1]),
    'CMYK': (encode(Image.fromarray(COLOURS).convert('CMYK'), 'jpeg'), 'CMYK, converted to RGB', None),
    'animation': (
        encode(Image.fromarray(COLOURS), 'gif', save_all=True, append_images=[Image.fromarray(255 - COLOURS)]),
        'the first is read',
        None,
    ),
    '16 bits': (encode(WIDE), 'of which the upper 8 of 16 are read', np.dstack([(WIDE >> 8).astype(np.uint8)] * 3)),
    '16 bits, tiff': (
        encode(WIDE, 'tif'),
        'of which the upper 8 of 16 are read',
        np.dstack([(WIDE >> 8).astype(np.uint8)] * 3),
    ),
    '12 bits': (
        encode(WIDE >> 4),
        'of which the upper 8 of 12 are read',
        np.dstack([(WIDE >> 8).astype(np.uint8)] * 3),
    ),
    'turned': (turned(6), '', None),
    'turned in place': (turned(3), 'EXIF', None),
}


@pytest.mark.parametrize('kind', IMAGES)
def test_training_reads_as_inference_does(kind, tmp_path):
    content, said, pixels = IMAGES[kind]
    write(tmp_path, {1: np.zeros((WIDTH, HEIGHT), np.uint8)} if kind == 'turned' else ())
    path = tmp_path / 'images/001.jpg'
    path.write_bytes(content)
    notes = [note for note in check_data(config(tmp_path), 'train') if '1 of 3 images' in note]
    assert len(notes) == bool(said) and said in ' '.join(notes)
    found = LoadImageFromFile()(dict(img_path=str(path)))
    if pixels is None:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)  # as before
    np.testing.assert_array_equal(found['img'], pixels)
    np.testing.assert_array_equal(read_image(path), pixels)
    assert found['img_shape'] == found['ori_shape'] == pixels.shape[:2] and found['img'].dtype == np.uint8
    assert LoadImageFromFile(to_float32=True)(dict(img_path=str(path)))['img'].dtype == np.float32


@pytest.mark.parametrize(
    'content',
    [encode(WIDE.astype(np.float32), 'tif'), encode(COLOURS, 'jpeg')[:-400], encode(COLOURS)[:-400], b'', b'text'],
    ids=['float', 'cut-off jpeg', 'cut-off png', 'empty', 'text'],
)
def test_what_cannot_be_read(content, tmp_path):
    write(tmp_path)
    path = tmp_path / 'images/001.jpg'
    path.write_bytes(content)
    with pytest.raises(DataError, match='001.jpg: '):
        check_data(config(tmp_path), 'train')
    with pytest.raises(ValueError, match='001.jpg: '):
        LoadImageFromFile()(dict(img_path=str(path)))
    assert LoadImageFromFile(ignore_empty=True)(dict(img_path=str(path))) is None


def test_data_sets_with_another_reader(tmp_path):
    write(tmp_path)
    (tmp_path / 'images/001.jpg').write_bytes(encode(np.float32(WIDE), 'tif'))
    load = dict(type='LoadImageFromFile', color_type='unchanged', imdecode_backend='pillow')
    assert check_data(config(tmp_path, pipeline=[load, dict(type='LoadAnnotations')]), 'train') == []
    (tmp_path / 'images/001.jpg').write_bytes(b'text')
    with pytest.raises(DataError, match='001.jpg: cannot identify'):
        check_data(config(tmp_path, pipeline=[load, dict(type='LoadAnnotations')]), 'train')


def test_other_readers_stay_mmcv_s(tmp_path):
    path = tmp_path / 'image.png'
    path.write_bytes(encode(np.dstack([GRAY, GRAY])))
    assert LoadImageFromFile(color_type='unchanged')(dict(img_path=str(path)))['img'].shape == (HEIGHT, WIDTH, 4)
    assert LoadImageFromFile(color_type='grayscale')(dict(img_path=str(path)))['img'].shape == (HEIGHT, WIDTH)
    assert LoadImageFromFile(imdecode_backend='pillow')(dict(img_path=str(path)))['img'].shape == (HEIGHT, WIDTH, 3)
