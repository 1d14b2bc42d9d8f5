"""Semantic segmentation: images, label maps, and whether classes and ignored index agree with the model."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations

from ..transforms import BINARY, class_indices, fit_to_image, read_labels
from . import images
from .errors import DataError

SAMPLE = 64  # images and label maps of a data set that are read, spread evenly over it


def prepare(cfg: Config, split: str, leaf: dict, dataset: BaseSegDataset, evaluators: list[dict]) -> None:
    """Checks that classes and ignored index agree in data set, heads and metric, and sets the ignored index of the data
    set: in training that of the heads, otherwise that of the metric.

    Raises:
        DataError: they do not.
    """
    where = f'config {cfg.filename}'
    heads = dict(_heads(cfg.model))
    classes = dataset.metainfo.get('classes')
    for name, head in heads.items():
        count = head.get('num_classes')
        if count == 1 or (classes is not None and len(classes) == 1):
            raise DataError(
                f'{where}: {name}.num_classes={count}, classes={classes}: with a single class every pixel is '
                f'it; {BINARY} (or in the head out_channels=1 beside num_classes=2, with a loss of use_sigmoid=True)'
            )
        if classes is not None and count is not None and count != len(classes):
            kind = type(dataset).__name__
            raise DataError(f'{where}: the data set {kind} has {len(classes)} classes, but {name}.num_classes={count}')
        if count is not None and count > 255 and 'ignore_index' not in head:
            raise DataError(
                f'{where}: {name} ignores index 255, which of {count} classes is one: set ignore_index=65535 in the '
                'heads and the metric, and seg_pad_val=65535 in data_preprocessor'
            )
    if split == 'train':
        ignored = {head.get('ignore_index', 255) for head in heads.values()}
        if len(ignored) > 1:
            raise DataError(f'{where}: the heads have different values of ignore_index: {sorted(map(str, ignored))}')
        padding = (cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}).get('seg_pad_val', 255)
        if ignored and classes is not None and padding < len(classes) and padding not in ignored:
            raise DataError(f'{where}: data_preprocessor.seg_pad_val={padding} is a class: padding must be ignored')
    else:
        ignored = {evaluator.get('ignore_index', 255) for evaluator in evaluators}
        if classes is not None and len(classes) > 255 and any('ignore_index' not in each for each in evaluators):
            raise DataError(f'{where}: {split}_evaluator ignores index 255, which is a class: set ignore_index=65535')
    if len(ignored) == 1 and (ignore_index := ignored.pop()) != dataset.ignore_index:
        leaf['ignore_index'] = dataset.ignore_index = ignore_index


def _heads(model: dict) -> Iterator[tuple[str, dict]]:
    for name in ('decode_head', 'auxiliary_head'):
        heads = model.get(name) or []
        if isinstance(heads, dict):
            yield name, heads
        else:
            yield from ((f'{name}[{i}]', head) for i, head in enumerate(heads))


class _Pair(NamedTuple):
    """What an image and its label map were found to hold."""

    values: np.ndarray  # in the file of the label map
    indices: np.ndarray  # the class indices that they mean
    unusual: tuple[str, ...]


def check(dataset: BaseSegDataset, where: str, full: bool = False) -> list[str]:
    """Checks that every image has a label map, and that those that are read (a sample; `full`: all) can be used.

    Returns:
        notes on what is unusual or was mended.

    Raises:
        DataError: the file and what is wrong with it.
    """
    dataset.serialize_data = False  # which takes time, for worker processes
    dataset.full_init()
    notes = [f'{where}: {note}' for note in getattr(dataset, 'mended', ())]
    data = dataset.data_list
    load = next((step for step in dataset.pipeline.transforms if isinstance(step, LoadAnnotations)), None)
    _check_missing(data, 'img_path', where, 'image')
    if load is not None:
        _check_missing(data, 'seg_map_path', where, 'label map', dataset)

    load_image = next((step for step in dataset.pipeline.transforms if isinstance(step, LoadImageFromFile)), None)
    if load_image is None:  # another kind of image, which we do not know
        return notes

    def read(info: dict) -> _Pair:
        image = _examine(info['img_path'], load_image)
        if load is not None:
            return _read_pair(info, image, load)
        none = np.zeros(0, int)
        return _Pair(none, none, image.unusual)

    chosen = range(len(data)) if full else np.unique(np.linspace(0, len(data) - 1, min(SAMPLE, len(data))).astype(int))
    unusual, seen = Counter(), {}
    with ThreadPoolExecutor(4) as pool:
        for pair in _in_order(pool, read, [data[i] for i in chosen]):
            unusual.update(pair.unusual)
            seen.update(zip(pair.values.tolist(), pair.indices.tolist(), strict=True))
        if load is not None:
            rest = [] if full else [info for i, info in enumerate(data) if i not in set(chosen)]
            _check_several_classes(dataset, seen, _in_order(pool, read, rest), where)
    of = f'{len(chosen)} images' if len(chosen) == len(data) else f'{len(chosen)} sampled images'
    notes += [f'{where}: {count} of {of} are {what}' for what, count in unusual.items()]
    return notes


def _in_order(pool: ThreadPoolExecutor, function, items: list, at_once: int = 16) -> Iterator:
    for start in range(0, len(items), at_once):
        yield from pool.map(function, items[start : start + at_once])


def _examine(path: str, load: LoadImageFromFile) -> images.Examined:
    if load.color_type == 'color' and load.imdecode_backend == 'cv2':
        return images.examine(path, load.backend_args)
    try:
        return images.Examined(load(dict(img_path=path))['ori_shape'], 1, ())
    except Exception as error:
        raise DataError(f'{path}: {error}') from error


def _read_pair(info: dict, image: images.Examined, load: LoadAnnotations) -> _Pair:
    unusual = list(image.unusual)
    path = info['seg_map_path']
    stored, mended = read_labels(path, info, load.imdecode_backend, load.backend_args)
    if mended:
        unusual.append(f'with a label map of {mended}, read as indices')
    labels = fit_to_image(stored, image.shape, path, info['img_path'], load.backend_args)
    if labels is not stored:
        unusual.append(
            'turned by their EXIF orientation, with a label map of the stored size, which is turned with them'
        )
    elif image.orientation in (2, 3, 4) or (image.orientation >= 5 and image.shape[0] == image.shape[1]):
        unusual.append('turned by their EXIF orientation; their label maps are taken to be those of the upright images')
    values = np.flatnonzero(np.bincount(labels.ravel()))
    reduce = info['reduce_zero_label'] if load.reduce_zero_label is None else load.reduce_zero_label
    options = info.get('num_classes'), info.get('ignore_index', 255), reduce, info.get('label_map')
    class_indices(labels, path, *options)
    return _Pair(values, class_indices(values.astype(labels.dtype)[None], path, *options)[0], tuple(unusual))


def _check_several_classes(dataset: BaseSegDataset, seen: dict[int, int], rest: Iterable[_Pair], where: str) -> None:
    """Label maps of a single class beside ignored pixels: binary ones with 0 and 255, as a rule."""
    ignored = {value for value, index in seen.items() if index == dataset.ignore_index}
    classes = dataset.metainfo.get('classes')
    if not ignored or classes is None:
        return
    while len({index for index in seen.values() if index != dataset.ignore_index}) < 2:
        pair = next(rest, None)
        if pair is None:
            values, void = (', '.join(map(str, sorted(each))) for each in (seen, ignored))
            raise DataError(
                f'{where}: the label maps in {dataset.data_prefix.get("seg_map_path")} hold the values {values} alone, '
                f'of which {void} {"is" if len(ignored) == 1 else "are"} ignored: at most one class of {len(classes)} '
                f'is left; {BINARY}'
            )
        seen.update(zip(pair.values.tolist(), pair.indices.tolist(), strict=True))


def _check_missing(data: list[dict], key: str, where: str, what: str, dataset=None) -> None:
    paths = [info.get(key) for info in data]
    missing = [path for path in paths if path is None or ('://' not in path and not os.path.isfile(path))]
    if not missing:
        return
    shown = ', '.join(map(str, missing[:3]))
    if dataset is not None and missing[0] is not None:
        folder, stem = os.path.dirname(missing[0]), os.path.basename(missing[0]).removesuffix(dataset.seg_map_suffix)
        images = {info['img_path'] for info in data}
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        near = [name for name in names if name.startswith(stem) and os.path.join(folder, name) not in images]
        if near:
            shown = f'{missing[0]}; there is {near[0]}: seg_map_suffix={near[0].removeprefix(stem)!r}?'
    raise DataError(f'{where}: {len(missing)} of {len(paths)} {what}s do not exist, such as {shown}')
