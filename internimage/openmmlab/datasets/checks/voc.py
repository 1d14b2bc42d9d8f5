"""Annotations that are not COCO's json: Pascal VOC's xml, CrowdHuman's odgt, Open Images' csv."""

import csv
import json
import math
import os
from collections import Counter
from xml.etree import ElementTree

from mmdet.datasets import XMLDataset

from .coco import ImageFolder, _short, _some, check_classes, nearest
from .errors import DataError

SAMPLED = 20000  # xml files that are read unless all are asked for


def check_voc(dataset, where: str, mode: str = 'sample') -> list[str]:
    """Checks what an mmdet `XMLDataset` or one of a derived class, built with `lazy_init=True`, will read.

    mmdet passes over objects whose name is not among the classes; here they are counted and named.

    Args:
        where: what the message of an error begins with.
        mode: 'sample' reads up to 20000 files, 'full' all of them.

    Returns:
        One line for each thing that should be known, with a count.

    Raises:
        DataError: a file is missing, broken, or has a box that is not one; a class occurs nowhere while a similar
            name does; a training set has no image left.
    """
    classes = dataset.metainfo.get('classes')
    check_classes(classes, where)
    if type(dataset).load_data_list is not XMLDataset.load_data_list:  # it has files of its own arrangement
        return []
    listed = f'{where}: {dataset.ann_file}'
    try:
        with open(dataset.ann_file, encoding='utf-8-sig') as file:
            names = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{listed}: {getattr(error, "strerror", None) or "not a text file"}') from error
    if not names:
        raise DataError(f'{listed}: lists no image')
    step = 1 if mode == 'full' else max(1, len(names) // SAMPLED)
    seen, empty, small, left = Counter(), 0, 0, 0
    without_area, finder, renamed, missing = 0, ImageFolder(), 0, []
    options = dataset.filter_cfg or {}
    for name in names[::step]:
        xml = os.path.join(dataset.sub_data_root, dataset.ann_subdir, f'{name}.xml')
        image = os.path.join(dataset.sub_data_root, dataset.img_subdir, f'{name}.jpg')
        found = finder.find(image)
        missing += [image] if found is None else []
        renamed += found not in (None, image)
        objects, size = _read_xml(xml, where)
        seen.update(label for label, _ in objects)
        without_area += sum(x2 <= x1 or y2 <= y1 for _, (x1, y1, x2, y2) in objects)
        if options.get('filter_empty_gt') and not any(label in classes for label, _ in objects):
            empty += 1
        elif size and min(size) < options.get('min_size', 0):
            small += 1
        else:
            left += 1
    looked_at = len(names[::step])
    if missing:
        raise DataError(f'{listed}: {len(missing)} of {looked_at} images do not exist, the first is {missing[0]}')

    notes = []
    if renamed:
        notes.append(f'{dataset.ann_file}: {renamed} images have another suffix or another case on the disk: found')
    others = {name: count for name, count in seen.items() if name not in classes}
    absent = [name for name in classes if not seen[name]]
    if step == 1:
        for name in absent:
            if like := nearest(name, others):
                raise DataError(
                    f'{listed}: no object is called {name!r}, which is one of the classes; but {others[like[0]]} are '
                    f'called {like[0]!r}: write the names in `classes` as they are in the files'
                )
    if seen and not any(seen[name] for name in classes):
        raise DataError(
            f'{listed}: no object is of the classes {_some(list(classes), 5)}; their names are {_named(others)}'
        )
    if others:
        notes.append(f'{dataset.ann_file}: {sum(others.values())} objects are of no class: left out, {_named(others)}')
    if absent:
        notes.append(f'{dataset.ann_file}: {len(absent)} classes have no object: {_some([repr(n) for n in absent], 5)}')
    if without_area:
        notes.append(f'{dataset.ann_file}: {without_area} boxes have no area')
    if not dataset.test_mode and not left:
        raise DataError(
            f'{listed}: all {looked_at} images are filtered away: {empty} without objects of the classes '
            f'(filter_empty_gt), {small} with a side of less than {options.get("min_size", 0)} pixels (min_size)'
        )
    return notes


def check_crowd_human(dataset, where: str) -> list[str]:
    """Checks the odgt file of an mmdet `CrowdHumanDataset`, as `check_voc` does: a line of json to an image."""
    classes = dataset.metainfo.get('classes')
    check_classes(classes, where)
    place = f'{where}: {dataset.ann_file}'
    tags = Counter()
    try:
        with open(dataset.ann_file, encoding='utf-8-sig') as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                for person in record['gtboxes']:
                    box = person['fbox']
                    if len(box) != 4 or not all(math.isfinite(value) for value in box):
                        raise DataError(f'{place}: line {number} has the fbox {_short(box)}: it must be four numbers')
                    tags[person['tag']] += 1
    except DataError:
        raise
    except OSError as error:
        raise DataError(f'{place}: {error.strerror}') from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f'{place}: line {number} is not one of CrowdHuman: {type(error).__name__}: {error}') from error
    if not any(tags[name] for name in classes):
        raise DataError(f'{place}: no box is of the classes {_some(list(classes))}; their tags are {_named(tags)}')
    others = {name: count for name, count in tags.items() if name not in classes}
    return (
        [f'{dataset.ann_file}: {sum(others.values())} boxes are of no class: ignored, {_named(others)}']
        if others
        else []
    )


def check_open_images(dataset, where: str) -> list[str]:
    """mmdet's `OpenImagesDataset` takes its classes from `label_file`, whatever it is given: both must be the same."""
    classes = dataset.metainfo.get('classes')
    if classes is None:
        return []
    try:
        with open(dataset.label_file, encoding='utf-8-sig', newline='') as file:
            names = [row[1] for row in csv.reader(file)]
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f'{where}: label_file {dataset.label_file} cannot be read: {error}') from error
    if list(classes) != names:
        raise DataError(
            f'{where}: OpenImagesDataset takes its {len(names)} classes from label_file {dataset.label_file}, but is '
            f'given {len(classes)} others ({_some(list(classes))}): leave them out, or edit that file'
        )
    return []


def _read_xml(path: str, where: str) -> tuple[list[tuple[str, tuple]], tuple[int, int] | None]:
    """[(name, (xmin, ymin, xmax, ymax))], and (width, height) where the file has them."""
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise DataError(f'{where}: {path}: {error.strerror}') from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f'{where}: {path}: not xml, or broken off: {error}') from error
    objects = []
    for number, thing in enumerate(root.findall('object'), start=1):
        name = thing.findtext('name')
        texts = [thing.findtext(f'bndbox/{key}') for key in ('xmin', 'ymin', 'xmax', 'ymax')]
        try:
            box = tuple(float(text) for text in texts)
        except (TypeError, ValueError):
            box = (math.nan,)
        if name is None or not all(map(math.isfinite, box)) or box[2] < box[0] or box[3] < box[1]:
            raise DataError(
                f'{where}: {path}: object {number} ({name}) has the box {_short(texts)}: it must be xmin, ymin, xmax, '
                'ymax in pixels; correct or delete it'
            )
        objects.append((name, box))
    try:
        size = int(root.findtext('size/width')), int(root.findtext('size/height'))
    except (TypeError, ValueError):
        if root.find('size') is not None:
            raise DataError(f'{where}: {path}: size must have a width and a height, in pixels') from None
        size = None
    return objects, size


def _named(counts: dict) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return _some([f'{name!r} ({count})' for name, count in ordered], 5) or 'none'
