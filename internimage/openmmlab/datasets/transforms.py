"""Reading and resizing where mmcv and mmseg give wrong results without an error: label maps, 16 bits, thin images.

The functions replace theirs, so that every config uses them, however it names a transform. For correct data the results
are the same.
"""

import functools
import io
from collections.abc import Callable
from typing import NamedTuple

import cv2
import mmcv
import mmcv.transforms.processing
import mmdet.datasets.transforms.transforms
import numpy as np
from mmcv.image import geometric
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from PIL import ExifTags, Image

from ..images import decode_image
from .checks.errors import DataError

LOSSY_FORMATS = ('JPEG', 'MPO', 'JPEG2000')
# {EXIF orientation: how the stored pixels become upright}; only those that swap height and width.
UPRIGHT = {
    5: lambda stored: stored.T,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: lambda stored: np.rot90(stored),
}
INDICES = 'a label map has one channel of class indices: write those, as an 8-bit PNG (16 bits above 255 classes)'


def read_label_map(content: bytes, path: str, backend: str = 'pillow') -> tuple[np.ndarray, str | None]:
    """The label map in the bytes of the file `path`: (H, W) uint8, or uint16 where a value is above 255.

    Palette images are read as their indices, 1-bit images as 0 and 1 (with mmcv's reader 'pillow', mmseg's default).

    Returns:
        the labels, and what was mended without a guess, or None: equal colour channels, an opaque alpha channel, whole
        numbers as floats.

    Raises:
        DataError: no image, a lossy format, colours, transparency, fractions, values outside 0 to 65535.
    """
    try:
        if backend == 'pillow':
            image = Image.open(io.BytesIO(content))
            if image.format in LOSSY_FORMATS:
                raise DataError(f'{path}: a label map as {image.format} has other values at every edge: {INDICES}')
            labels = np.array(image)
        else:
            labels = mmcv.imfrombytes(content, flag='unchanged', backend=backend)
    except (OSError, SyntaxError, Image.DecompressionBombError, cv2.error) as error:  # SyntaxError: a broken PNG
        raise DataError(f'{path}: a broken label map, or none: {" ".join(str(error).split())}') from error
    if labels is None:
        raise DataError(f'{path}: a broken label map, or none')
    labels, mended = _one_channel(labels, path)
    labels = np.ascontiguousarray(labels)
    if labels.dtype == np.uint8:
        return labels, mended
    if labels.dtype == bool:
        return labels.astype(np.uint8), mended
    if labels.dtype.kind == 'f':
        if not np.array_equal(labels, np.rint(labels)):
            value = labels[labels != np.rint(labels)][0]
            raise DataError(f'{path}: the label map has fractions, such as {value:.6g}: {INDICES}')
        mended = mended or 'floats that are whole numbers'
    low, high = labels.min(), labels.max()
    if low < 0 or high > 65535:
        raise DataError(f'{path}: the label map has values from {low} to {high}, outside 0 to 65535: {INDICES}')
    return labels.astype(np.uint8 if high <= 255 else np.uint16), mended


class LabelTable(NamedTuple):
    """How the values in the files of a data set become class indices. `entries`: (value, index); with `colours` a value
    is R * 65536 + G * 256 + B."""

    colours: bool
    entries: tuple[tuple[int, int], ...]


def read_by_table(
    content: bytes, path: str, table: LabelTable, backend: str = 'pillow'
) -> tuple[np.ndarray, str | None]:
    """`read_label_map` for files that hold other values than class indices, which the table turns into these.

    Raises:
        DataError: see `read_label_map`; a value that is not in the table.
    """
    if table.colours:
        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.format in LOSSY_FORMATS:
                    raise DataError(f'{path}: a label map as {image.format} has other colours at every edge: write PNG')
                colours = np.asarray(image.convert('RGB')).astype(np.int32)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f'{path}: a broken label map, or none: {" ".join(str(error).split())}') from error
        values, mended = colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2], None
    else:
        values, mended = read_label_map(content, path, backend)
    indices = _look_up_table(table)[values]
    if (unknown := indices == UNKNOWN).any():
        found, counts = np.unique(values[unknown], return_counts=True)
        named = [_rgb(value) if table.colours else int(value) for value in found[np.argsort(-counts)[:5]]]
        raise DataError(
            f'{path}: the label map has {len(found)} {"colours" if table.colours else "values"} of no class on '
            f'{counts.sum()} pixels, such as {", ".join(map(str, named))}: add them to label_values or ignored_values'
        )
    return indices.astype(np.uint8) if indices.max(initial=0) <= 255 else indices, mended


UNKNOWN = 65535


@functools.lru_cache(8)
def _look_up_table(table: LabelTable) -> np.ndarray:
    indices = np.full(2**24 if table.colours else 2**16, UNKNOWN, np.uint16)
    for value, index in table.entries:
        indices[value] = index
    return indices


def _rgb(value: int) -> tuple[int, int, int]:
    return int(value) >> 16, int(value) >> 8 & 255, int(value) & 255


def read_labels(path: str, info: dict, backend: str = 'pillow', backend_args=None) -> tuple[np.ndarray, str | None]:
    """The label map of a record of a data set, by its `label_table` where it has one; see `read_label_map`."""
    content = fileio.get(path, backend_args=backend_args)
    if table := info.get('label_table'):
        return read_by_table(content, path, LabelTable(*table), backend)
    return read_label_map(content, path, backend)


def _one_channel(pixels: np.ndarray, path: str) -> tuple[np.ndarray, str | None]:
    if pixels.ndim == 2:
        return pixels, None
    if pixels.ndim != 3 or pixels.shape[2] > 4:
        raise DataError(f'{path}: the label map has shape {pixels.shape}: {INDICES}')
    channels = pixels.shape[2]
    if channels in (2, 4):
        alpha = pixels[..., -1]
        if (alpha != alpha.max()).any() or not alpha.max():
            raise DataError(f'{path}: the label map has an alpha channel that is not opaque everywhere: {INDICES}')
        pixels = pixels[..., :-1]
    if (pixels != pixels[..., :1]).any():
        colours, counts = np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0, return_counts=True)
        most = [tuple(map(int, colours[i])) for i in np.argsort(-counts)[:5]]
        raise DataError(
            f'{path}: the label map has {len(colours)} colours, such as {", ".join(map(str, most))}, instead of class '
            f'indices: {INDICES}'
        )
    kind = {
        1: 'one channel with a third axis',
        2: 'gray + alpha',
        3: 'RGB of equal channels',
        4: 'RGBA of equal channels',
    }
    return pixels[..., 0], kind[channels]


def fit_to_image(
    labels: np.ndarray, shape: tuple[int, int], path: str, image_path: str, backend_args=None
) -> np.ndarray:
    """The label map in the size of its image, `shape` (H, W), which is turned upright by its EXIF orientation.

    A label map that has the size of the stored, unturned image is turned with it.

    Raises:
        DataError: another size.
    """
    if labels.shape == tuple(shape):
        return labels
    if labels.shape == tuple(shape[::-1]):
        image = Image.open(io.BytesIO(fileio.get(image_path, backend_args=backend_args)))
        if turn := UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation)):
            return np.ascontiguousarray(turn(labels))
    raise DataError(
        f'{path}: the label map has {labels.shape[1]} x {labels.shape[0]} pixels and its image {image_path} '
        f'{shape[1]} x {shape[0]} (width x height): they must be the same'
    )


@functools.lru_cache
def _class_table(size: int, num_classes, ignore_index, reduce_zero_label: bool, label_map) -> tuple:
    """For each value 0 to `size` - 1 of a file: the class index that it means, and whether it is not a class."""
    index = np.arange(size)
    ignored = 255 if ignore_index is None else ignore_index
    few = num_classes is None or num_classes < 255
    if reduce_zero_label:
        index -= 1
        index[0] = ignored
        if few:  # mmseg's rule
            index[255] = ignored
        elif ignored < size:
            index[ignored] = ignored
    values = np.arange(size)
    for old, new in label_map or ():
        index[values == old + reduce_zero_label] = ignored if new == 255 and few else new
    wrong = np.zeros(size, bool)
    if num_classes is not None:
        wrong = index >= num_classes
        if ignore_index is not None:
            wrong &= index != ignore_index
    narrow = index[~wrong].max(initial=0) <= 255
    index[wrong] = 0
    return index.astype(np.uint8 if narrow else np.uint16), wrong.astype(np.uint8)


def class_indices(
    labels: np.ndarray,
    path: str,
    num_classes: int | None,
    ignore_index: int | None = 255,
    reduce_zero_label: bool = False,
    label_map: dict[int, int] | None = None,
) -> np.ndarray:
    """The class indices, (H, W), of the values `labels` of a file, by the rules of mmseg's data sets.

    `reduce_zero_label`: 0 is ignored, and the others count from 1. `label_map`: {index: index among the chosen
    classes}. `num_classes` None: nothing is known of the classes, and nothing is checked.

    Raises:
        DataError: a value is neither a class nor `ignore_index`.
    """
    if num_classes is not None and not reduce_zero_label and not label_map and labels.max() < num_classes:
        return labels
    size = 256 if labels.dtype == np.uint8 else 65536
    chosen = tuple(label_map.items()) if label_map else None
    index, wrong = _class_table(size, num_classes, ignore_index, bool(reduce_zero_label), chosen)
    look_up = cv2.LUT if labels.dtype == np.uint8 else lambda values, table: table[values]
    if wrong.any() and (beyond := look_up(labels, wrong)).max():
        values, counts = np.unique(labels[beyond.astype(bool)], return_counts=True)
        shown = ', '.join(f'{value} ({count} pixels)' for value, count in list(zip(values, counts, strict=True))[:5])
        first = int(bool(reduce_zero_label))
        last = (len(label_map) if label_map else num_classes) - 1 + first
        raise DataError(
            f'{path}: the label map has the value{"s" * (len(values) > 1)} {shown}{", ..." * (len(values) > 5)}, but '
            f'its classes are {first} to {last}, and ignore_index is {ignore_index}: '
            + (BINARY if num_classes <= 2 else 'mend the label map, or name all classes and what is to be ignored')
        )
    return look_up(labels, index)


BINARY = (
    'binary segmentation has two classes, background (0) and foreground (1): two names in classes, num_classes=2, and '
    'label maps with the values 0 and 1'
)


def _load_seg_map(self: LoadAnnotations, results: dict) -> None:
    """mmseg's, which casts every file to uint8, whatever it holds."""
    path = results['seg_map_path']
    labels, _ = read_labels(path, results, self.imdecode_backend, self.backend_args)
    if 'ori_shape' in results:
        labels = fit_to_image(labels, results['ori_shape'][:2], path, results['img_path'], self.backend_args)
    if self.reduce_zero_label is None:
        self.reduce_zero_label = results['reduce_zero_label']
    if self.reduce_zero_label != results['reduce_zero_label']:
        raise DataError(
            f'reduce_zero_label is {results["reduce_zero_label"]} in the data set and {self.reduce_zero_label} in '
            'LoadAnnotations: set it in the data set alone'
        )
    results['gt_seg_map'] = class_indices(
        labels,
        path,
        results.get('num_classes'),
        results.get('ignore_index', 255),
        self.reduce_zero_label,
        results.get('label_map'),
    )
    results['seg_fields'].append('gt_seg_map')


def _load_image(self: LoadImageFromFile, results: dict) -> dict | None:
    """mmcv's, with the rule of `..images` for 16 bits, so that training, test and inference read alike."""
    if self.color_type != 'color' or self.imdecode_backend != 'cv2' or self.file_client_args is not None:
        return _mmcv_load_image(self, results)
    path = results['img_path']
    try:
        image = decode_image(fileio.get(path, backend_args=self.backend_args), path, log=False)
    except Exception:
        if self.ignore_empty:
            return None
        raise
    results['img'] = image.astype(np.float32) if self.to_float32 else image
    results['img_shape'] = results['ori_shape'] = image.shape[:2]
    return results


def _at_least_one_pixel(scaled_size: Callable) -> Callable:
    """mmcv's rule for the size of a resized image rounds the shorter side of a thin one to 0, which OpenCV refuses."""

    @functools.wraps(scaled_size)
    def wrapped(size, scale):
        return tuple(max(side, 1) for side in scaled_size(size, scale))

    return wrapped


_mmcv_load_image = LoadImageFromFile.transform
LoadImageFromFile.transform = _load_image
LoadAnnotations._load_seg_map = _load_seg_map
geometric._scale_size = _at_least_one_pixel(geometric._scale_size)
for _module, _name in (
    (mmcv.transforms.processing, '_scale_size'),
    (mmdet.datasets.transforms.transforms, '_scale_size'),
    (mmdet.datasets.transforms.transforms, '_fixed_scale_size'),
):
    setattr(_module, _name, _at_least_one_pixel(getattr(_module, _name)))
