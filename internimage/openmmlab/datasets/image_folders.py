"""Which files a segmentation data set of mmseg consists of, whatever their suffixes."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mmseg.datasets import BaseSegDataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from .checks.errors import DataError

SUFFIXES = (*IMG_EXTENSIONS, '.jpe', '.jp2', '.dib')  # of images that OpenCV reads


def _load_data_list(self: BaseSegDataset) -> list[dict]:
    """mmseg's, and the images that it does not find: whose suffix is another one than `img_suffix` (.JPG, .jpeg, .tif),
    or that a list names with their suffix; the same for label maps. What was found so is counted in `self.mended`.

    Every record has the keys `num_classes` and `ignore_index` too, by which its label map is checked when it is read.

    Raises:
        DataError: there is no image, or there are two images of the same name.
    """
    data = _mmseg_load_data_list(self)
    images, labels = (self.data_prefix.get(key) for key in ('img_path', 'seg_map_path'))
    self.mended = []
    if images and os.path.isdir(images):
        label_files = set(_files(labels)) if labels and os.path.isdir(labels) else set()
        if not os.path.isfile(self.ann_file or ''):
            data += _with_other_suffix(self, data, images, labels, label_files)
            data.sort(key=lambda info: info['img_path'])
        elif any(not os.path.exists(info['img_path']) for info in data):
            data = _listed(self, data, images, labels)
        if label_files:
            _find_label_maps(self, data, labels, label_files)
    if not data:
        raise DataError(f'{_where(self)}: {_what_there_is(images, self.img_suffix)}')
    classes = self.metainfo.get('classes')
    for info in data:
        info.update(num_classes=len(classes) if classes else None, ignore_index=self.ignore_index)
    return data


def _with_other_suffix(self, data: list[dict], images: str, labels: str | None, label_files: set[str]) -> list[dict]:
    """Records of the images in the folder whose suffix is not `img_suffix`.

    Where the data set has images of its own suffix, these need a label map, and must not be another version of one of
    those.
    """
    tail = os.path.splitext(f'x{self.img_suffix}')[0][1:]  # of '_leftImg8bit.png': '_leftImg8bit'
    names = {os.path.relpath(info['img_path'], images)[: -len(self.img_suffix)] for info in data}
    # Label maps may be beside the images or in a folder below.
    below = f'{os.path.relpath(labels, images)}{os.sep}' if labels else None
    found = defaultdict(list)
    for file in _files(images):
        if file.endswith(self.img_suffix):
            continue
        stem, suffix = os.path.splitext(file)
        name = stem.removesuffix(tail)
        is_label = file.endswith(self.seg_map_suffix) if below == f'.{os.sep}' else below and file.startswith(below)
        if suffix.lower() not in SUFFIXES or not stem.endswith(tail) or is_label:
            continue
        if name not in names and (not label_files or name + self.seg_map_suffix in label_files or not data):
            found[name].append(file)
    for files in found.values():
        if len(files) > 1:
            raise DataError(f'{_where(self)}: {images} has {" and ".join(sorted(files))}: which one is the image?')
    if found:
        suffixes = sorted({os.path.splitext(files[0])[1] for files in found.values()})
        self.mended.append(f'{len(found)} images with the suffix {", ".join(suffixes)} besides {self.img_suffix}')
    return [_record(self, images, file, labels, name) for name, (file,) in found.items()]


def _listed(self, data: list[dict], images: str, labels: str | None) -> list[dict]:
    """The records of a list some of whose images do not exist under their name and `img_suffix`."""
    files = set(_files(images))
    with_suffix = defaultdict(list)
    for file in files:
        with_suffix[os.path.splitext(file)[0]].append(file)
    mended, result = 0, []
    for info in data:
        file = os.path.relpath(info['img_path'], images)
        if file not in files:
            line = file[: -len(self.img_suffix)].removeprefix('\ufeff').replace('\\', '/')
            if line in ('', '.'):
                continue  # an empty line
            stem = os.path.splitext(line)[0] if line in files else line
            choices = [line] if line in files else with_suffix[os.path.splitext(line + self.img_suffix)[0]]
            if line + self.img_suffix in files:
                choices = [line + self.img_suffix]
            if len(choices) == 1:
                info = _record(self, images, choices[0], labels, stem)
                mended += 1
        result.append(info)
    if mended:
        self.mended.append(f'{mended} images of {self.ann_file} found under another suffix or spelling')
    return result


def _find_label_maps(self, data: list[dict], labels: str, label_files: set[str]) -> None:
    """Label maps that are not there under `seg_map_suffix`, but under one other suffix."""
    with_suffix = None
    mended = 0
    for info in data:
        file = os.path.relpath(info['seg_map_path'], labels)
        if file in label_files or os.path.exists(info['seg_map_path']):
            continue
        if with_suffix is None:
            with_suffix = defaultdict(list)
            for other in label_files:
                if os.path.splitext(other)[1].lower() in SUFFIXES:
                    with_suffix[os.path.splitext(other)[0]].append(other)
        choices = [
            other
            for other in with_suffix.get(os.path.splitext(file)[0], ())
            if os.path.join(labels, other) != info['img_path']
        ]
        if len(choices) == 1:
            info['seg_map_path'] = os.path.join(labels, choices[0])
            mended += 1
    if mended:
        self.mended.append(f'{mended} label maps under another suffix than {self.seg_map_suffix}')


def _record(self, images: str, file: str, labels: str | None, name: str) -> dict:
    info = dict(img_path=os.path.join(images, file))
    if labels is not None:
        info['seg_map_path'] = os.path.join(labels, name + self.seg_map_suffix)
    return info | dict(label_map=self.label_map, reduce_zero_label=self.reduce_zero_label, seg_fields=[])


def _files(folder: str) -> Iterator[str]:
    """All files below a folder, relative to it; hidden ones are left out, as mmengine does."""
    for place, _, names in os.walk(folder, followlinks=True):
        inside = '' if place == folder else f'{os.path.relpath(place, folder)}{os.sep}'
        for name in names:
            if not name.startswith('.'):
                yield inside + name


def _what_there_is(folder: str, suffix: str) -> str:
    counts = defaultdict(int)
    for file in _files(folder):
        counts[Path(file).suffix or 'no suffix'] += 1
    found = ', '.join(f'{suffix} ({count})' for suffix, count in sorted(counts.items(), key=lambda item: -item[1])[:5])
    found = f'there are {found}' if found else 'it is empty'
    return f'no image in {folder}, where the data set looks for *{suffix}: {found}'


def _where(self) -> str:
    return type(self).__name__


_mmseg_load_data_list = BaseSegDataset.load_data_list
BaseSegDataset.load_data_list = _load_data_list
