"""Annotation files in COCO's format: read, mended where only one way to do so exists, refused where none does.

`read_coco` is the one place that reads such a file, for training and for evaluation. Nothing is ever written to it.
"""

import codecs
import difflib
import gc
import json
import math
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, islice
from weakref import WeakValueDictionary

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from .errors import DataError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.jfif', '.ppm', '.pgm', '.jp2')
FAR = 10  # times the image's longer side: no coordinate of a real object is further away
FAR_UNKNOWN = 1e6  # pixels, where the size of the image is not known
LARGE = 64 * 2**20  # bytes of a file whose content is kept no longer than it is used
SAMPLED = 500  # images whose headers are read unless all are asked for


class CocoFile:
    """The content of one annotation file after mending.

    `content` holds the lists `images`, `annotations` and `categories` of the file (and what else it has). Readers share
    it: copy what you change. `notes` are the lines that say what was mended, each with a count.
    """

    def __init__(self, path: str, content: dict, notes: list[str], annotations_missing: bool = False):
        self.path = path
        self.content = content
        self.notes = notes
        self.annotations_missing = annotations_missing
        self.masks_checked = False
        self.names = {category['id']: category['name'] for category in content['categories']}
        self.counts = Counter(annotation['category_id'] for annotation in content['annotations'])
        self.boxes = _boxes(content['annotations'])

    @property
    def images(self) -> list[dict]:
        return self.content['images']

    @property
    def annotations(self) -> list[dict]:
        return self.content['annotations']


SAID: set[str] = set()  # notes that were logged or returned already
_kept: dict[tuple, CocoFile] = {}
_alive: WeakValueDictionary = WeakValueDictionary()


def read_coco(path: str | os.PathLike, keep: bool = False) -> CocoFile:
    """Reads and mends the file, once as long as the result is in use and the file does not change.

    Mended: a byte order mark, ids and numbers that are text, annotation ids that are missing, 0, no integers or not
    unique, a missing `iscrowd` (0) or `area` (of the mask, else of the box), a box that is missing beside a mask,
    backslashes in file names. Annotations of images that the file does not list are left out.

    Args:
        keep: hold the result until the next call for this file, however large it is.

    Raises:
        DataError: the file cannot be read, is not of COCO's format, or contains something whose meaning is
            unclear. The message is one line with file, annotation id, value and what to do.
    """
    path = os.fspath(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f'{path}: {error.strerror}') from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f'{path}: not a file')
    key = (os.path.realpath(path), status.st_mtime_ns, status.st_size)
    file = _kept.pop(key, None) or _alive.get(key)
    if file is None:
        file = _read(path)
    _alive[key] = file
    if keep or status.st_size < LARGE:
        _kept[key] = file
        while len(_kept) > 8:
            del _kept[next(iter(_kept))]
    return file


def category_ids(classes: Sequence[str], file: CocoFile) -> list[int]:
    """The id of the category of each class, in the order of the classes: label i is `classes[i]`.

    Raises:
        DataError: `classes` is not a list of different names, the file lacks one of them, or has two categories of that
            name with annotations.
    """
    check_classes(classes, file.path)
    by_name = defaultdict(list)
    for id, name in file.names.items():
        by_name[name].append(id)
    missing = [name for name in classes if name not in by_name]
    if missing:
        raise DataError(f'{file.path}: {_missing_classes(missing, classes, list(by_name))}')
    found = []
    for name in classes:
        ids = [id for id in by_name[name] if file.counts[id]] or by_name[name][:1]
        if len(ids) > 1:
            raise DataError(
                f'{file.path}: categories {", ".join(map(str, ids))} are all called {name!r} and all have annotations: '
                'give them different names, or the annotations one category'
            )
        found += ids
    return found


def check_classes(classes, where: str) -> None:
    """Raises DataError unless `classes` is a list of at least one name, all different."""
    if isinstance(classes, str):
        raise DataError(f'{where}: classes must be a list of names, got the text {classes!r}: write ({classes!r},)')
    if not isinstance(classes, (list, tuple)) or not classes:
        raise DataError(f'{where}: classes must be a list of at least one name, got {classes!r}')
    if len(set(classes)) < len(classes):
        twice = [name for name, count in Counter(classes).items() if count > 1]
        raise DataError(f'{where}: classes must be different names, but {_some(twice)} is there more than once')


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of the `names` that `name` may be a misspelling of, the best first."""
    plain = {other.lower().strip(): other for other in names}
    return [plain[one] for one in difflib.get_close_matches(str(name).lower().strip(), plain, 3)]


def check_coco(dataset, where: str, mode: str = 'sample') -> list[str]:
    """Checks what an mmdet data set in COCO's format will read, before anything is written.

    Args:
        dataset: a `CocoDataset` or one of a derived class, built with `lazy_init=True`.
        where: what the message of an error begins with.
        mode: 'sample' reads the headers of up to 500 images, 'full' those of all.

    Returns:
        One line for each thing that was mended or should be known, with a count.

    Raises:
        DataError: see `read_coco` and `category_ids`; also images that are missing or of another size than stated,
            masks that are needed and cannot be used, and a training set of which no image is left.
    """
    classes = dataset.metainfo.get('classes')
    api = dataset.COCOAPI
    if not hasattr(api, 'ids_of_classes') or not _is_local(dataset):
        return []
    with _prefixed(where), without_gc():
        file = read_coco(dataset.ann_file, keep=True)
        check_classes(classes, file.path)
        ids = api.ids_of_classes(classes, file)
        notes = [*file.notes, *_category_notes(file, ids)]
        if not dataset.test_mode and not file.annotations:
            raise DataError(f'{file.path}: has no annotations: nothing can be trained on')
        notes += _check_images(dataset, file, mode)
        if loads_masks(dataset.pipeline):
            notes += check_masks(file)
        notes += _check_boxes(file)
        if not dataset.test_mode:
            _check_filter(dataset, file, set(ids))
    return notes


def check_coco_metric(metric: dict, datasets: Iterable, where: str) -> list[str]:
    """Checks that the file of a CocoMetric or LVISFasterMetric fits the data sets that it evaluates.

    Args:
        metric: the metric's config.
        datasets: the (leaf) data sets, built with `lazy_init=True`; others than those in COCO's format are passed over.
        where: what the message of an error begins with.

    Returns:
        Lines as those of `check_coco`.

    Raises:
        DataError: see `read_coco` and `category_ids`; also images that the file of the metric does not have under the
            same id and name, no annotation to evaluate against, and masks that cannot be used.
    """
    path = metric.get('ann_file')
    datasets = [d for d in datasets if hasattr(getattr(d, 'COCOAPI', None), 'ids_of_classes')]
    if not path or '://' in path or not datasets:
        return []
    with _prefixed(where):
        file = read_coco(path, keep=True)
        api = datasets[0].COCOAPI
        notes = list(file.notes)
        for dataset in datasets:
            api.ids_of_classes(dataset.metainfo.get('classes'), file)
        if not file.annotations and not metric.get('format_only'):
            what = 'has no "annotations"' if file.annotations_missing else 'has no annotation'
            raise DataError(f'{path}: {what}: nothing can be evaluated against it')
        wanted = metric.get('metric', 'bbox')
        if 'segm' in (wanted if isinstance(wanted, (list, tuple)) else [wanted]):
            notes += check_masks(file)
        notes += _check_same_images(file, datasets, api)
    return notes


def check_masks(file: CocoFile) -> list[str]:
    """Checks the mask of every annotation; mends those that `usable_mask` does.

    Raises:
        DataError: names the first annotation without a usable mask, and how many there are.
    """
    if file.masks_checked:
        return []
    sizes = {image['id']: _size(image) for image in file.images}
    nearest_limit = FAR * min((max(size) for size in sizes.values() if size), default=1)
    mended, bad, reason = 0, [], ''
    doubtful = chain.from_iterable(
        part for part in _parts(file.annotations, 10000) if not _plain_polygons(part, nearest_limit)
    )
    for annotation in doubtful:
        mask = annotation.get('segmentation')
        try:
            usable = usable_mask(mask, sizes[annotation['image_id']])
        except ValueError as error:
            reason = reason or str(error)
            bad.append(annotation)
        else:
            if usable is not mask:
                annotation['segmentation'] = usable
                mended += 1
    if bad:
        without = sum(not annotation.get('segmentation') for annotation in bad)
        advice = (
            'a detector without masks (Faster R-CNN, metric bbox) can use such annotations'
            if without == len(file.annotations)
            else 'correct or delete it'
        )
        raise DataError(f'{_of(file.path, bad[0])} {reason}{_and_more(bad)}: {advice}')
    file.masks_checked = True
    return [f'{file.path}: {mended} masks mended (parts of less than 3 points, missing brackets)'] if mended else []


def usable_mask(mask, size: tuple[int, int] | None) -> list | dict:
    """The annotation's `segmentation` as pycocotools can draw it: the same object where nothing has to be mended.

    Mended: one polygon without its outer list, numbers that are text, parts of fewer than three points.

    Args:
        mask: a list of polygons [x1, y1, x2, y2, ...] in pixels, or run lengths {'size': [h, w], 'counts': ...}.
        size: (height, width) of the image in pixels; None where it is not known.

    Raises:
        ValueError: it says what is wrong, in words that follow the annotation's name.
    """
    if not mask:
        raise ValueError('has no segmentation')
    if isinstance(mask, dict):
        _check_run_lengths(mask, size)
        return mask
    if not isinstance(mask, list):
        raise ValueError(f'has the segmentation {_short(mask)}, which is neither polygons nor run lengths')
    polygons = mask if isinstance(mask[0], list) else [mask]
    limit = FAR * max(size) if size else FAR_UNKNOWN
    kept, changed = [], polygons is not mask
    for polygon in polygons:
        if not isinstance(polygon, list):
            raise ValueError(f'has the polygon {_short(polygon)}: it must be a list [x1, y1, x2, y2, ...]')
        try:
            total = sum(polygon)
        except TypeError:
            polygon, changed = _floats(polygon), True
            if polygon is None:
                raise ValueError('has a polygon with something else than numbers') from None
            total = sum(polygon)
        if not math.isfinite(total):
            raise ValueError(f'has a polygon with the coordinate {next((v for v in polygon if v - v != 0), total)}')
        if len(polygon) % 2:
            raise ValueError(f'has a polygon of {len(polygon)} numbers: they must be pairs of x and y')
        if len(polygon) < 6:
            changed = True
            continue
        if max(polygon) > limit or min(polygon) < -limit:
            raise ValueError(
                f'has a polygon with the coordinate {max(polygon, key=abs)}, far outside its image'
                + (f' of {size[1]}x{size[0]} pixels' if size else '')
            )
        kept.append(polygon)
    if not kept:
        raise ValueError(f'has the segmentation {_short(mask)}, in which no polygon has three points')
    return kept if changed else mask


def image_size(path: str) -> tuple[int, int, int]:
    """(width, height, EXIF orientation 1 to 8) of the pixels as they are stored, from the header alone.

    Raises:
        DataError: there is no such file, or it is not an image.
    """
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            return *image.size, orientation if orientation in range(1, 9) else 1
    except FileNotFoundError as error:
        raise DataError(f'{path} does not exist') from error
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f'{path}: not an image that can be read') from error


class ImageFolder:
    """Finds images under names that differ in the suffix, or in upper and lower case, from those on the disk."""

    def __init__(self):
        self.list = lru_cache(maxsize=None)(self._list)

    def find(self, path: str) -> str | None:
        """`path`, or the only file that differs from it as above; None if there is none, or more than one."""
        folder, name = os.path.split(path)
        names, by_stem = self.list(folder)
        if name in names:
            return path
        alike = by_stem.get(os.path.splitext(name)[0].lower(), ())
        same_case = [one for one in alike if os.path.splitext(one)[0] == os.path.splitext(name)[0]]
        alike = same_case or alike
        return os.path.join(folder, alike[0]) if len(alike) == 1 else None

    @staticmethod
    def _list(folder: str) -> tuple[set[str], dict[str, list[str]]]:
        try:
            names = set(os.listdir(folder or '.'))
        except OSError:
            names = set()
        by_stem = defaultdict(list)
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in IMAGE_SUFFIXES:
                by_stem[stem.lower()].append(name)
        return names, by_stem


def loads_masks(pipeline) -> bool:
    """Does a built pipeline load masks?"""
    return any(getattr(step, 'with_mask', False) for step in getattr(pipeline, 'transforms', ()))


# Reading.


def _read(path: str) -> CocoFile:
    with without_gc():
        content, notes = _load_json(path)
        return _mended(path, content, notes)


@contextmanager
def without_gc():
    """Without garbage collection, which would scan millions of new lists and dicts again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _mended(path: str, content, notes: list[str]) -> CocoFile:
    if not isinstance(content, dict):
        hint = ' (a file of results?)' if isinstance(content, list) and content and 'score' in str(content[0]) else ''
        raise DataError(
            f'{path}: must be an object with "images", "annotations" and "categories", got '
            f'{type(content).__name__}{hint}'
        )
    missing = content.get('annotations') is None
    content['annotations'] = [] if missing else content['annotations']
    for key in ('images', 'categories', 'annotations'):
        rows = content.get(key)
        if not isinstance(rows, list):
            problem = f'has no "{key}"' if rows is None else f'"{key}" must be a list, got {type(rows).__name__}'
            there = ', '.join(str(k) for k in islice(content, 8)) or 'nothing'
            raise DataError(
                f"{path}: {problem}: a file in COCO's format has images, annotations, categories; it has {there}"
            )
        if set(map(type, rows)) - {dict}:
            row = next(row for row in rows if type(row) is not dict)
            raise DataError(f'{path}: "{key}" must be a list of objects, got {_short(row)} in it')
    for key in ('images', 'categories'):
        if not content[key]:
            raise DataError(f'{path}: "{key}" is empty')

    mending = _Mending(path, content, notes)
    mending.categories()
    mending.images()
    mending.annotations()
    return CocoFile(path, content, mending.notes, missing)


def _load_json(path: str) -> tuple:
    """The content of the file, and a note if it has a byte order mark."""
    try:
        with open(path, 'rb') as file:
            encoded = file.read()
        marked = encoded.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return json.loads(encoded), [f'{path}: 1 byte order mark: passed over'] if marked else []
    except (OSError, MemoryError) as error:
        raise DataError(f'{path}: {getattr(error, "strerror", None) or "too large to read"}') from error
    except (ValueError, RecursionError) as error:
        raise DataError(f'{path}: not JSON, or broken off: {error}') from error


class _Mending:
    """The steps of `read_coco` on freshly read content, which they change. `notes` says what was done."""

    def __init__(self, path: str, content: dict, notes: list[str]):
        self.path = path
        self.content = content
        self.notes = notes
        self.text_numbers = 0

    def note(self, count: int, what: str) -> None:
        if count:
            self.notes.append(f'{self.path}: {count} {what}')

    def categories(self) -> None:
        categories = self.content['categories']
        self.ids_to_numbers(categories, 'id', 'category')
        kept = {}
        for category in categories:
            if 'name' not in category:
                raise DataError(f'{self.path}: category {category["id"]} has no name')
            category['name'] = str(category['name'])
            first = kept.setdefault(category['id'], category)
            if first['name'] != category['name']:
                raise DataError(
                    f'{self.path}: category id {category["id"]} is there twice, as {first["name"]!r} and as '
                    f'{category["name"]!r}: every category needs an id of its own'
                )
        self.note(len(categories) - len(kept), 'categories are listed more than once: read once')
        self.content['categories'] = list(kept.values())

    def images(self) -> None:
        images = self.content['images']
        self.ids_to_numbers(images, 'id', 'image')
        kept, sized = {}, ('width', 'height')
        backslashes = 0
        for image in images:
            name = image.get('file_name', image.get('coco_url'))  # LVIS has addresses alone
            if not isinstance(name, str):
                raise DataError(f'{self.path}: image {image["id"]} has no file_name')
            if '\\' in image.get('file_name', ''):
                image['file_name'] = image['file_name'].replace('\\', '/')
                backslashes += 1
            for key in sized:
                value = image.get(key)
                if type(value) is not int or value <= 0:
                    self.image_side(image, key, value)
            first = kept.setdefault(image['id'], image)
            if first is not image and first.get('file_name') != image.get('file_name'):
                raise DataError(
                    f'{self.path}: image id {image["id"]} is there twice, as {first.get("file_name")!r} and as '
                    f'{image.get("file_name")!r}: which of them the annotations are of cannot be known'
                )
        self.note(backslashes, 'file names with backslashes: read as folders')
        self.note(len(images) - len(kept), 'images are listed more than once: read once')
        self.content['images'] = list(kept.values())

    def image_side(self, image: dict, key: str, value) -> None:
        """A side that is stated otherwise than as a positive integer. Where it is missing the image's header has it."""
        number = _number(value)
        if value is None or number == 0:
            image.pop(key, None)
        elif number is not None and number > 0 and number == int(number):
            image[key] = int(number)
            self.text_numbers += isinstance(value, str)
        else:
            raise DataError(
                f'{self.path}: image {image["id"]} ({image.get("file_name")}): {key} must be a number of pixels, got '
                f'{_short(value)}: correct or delete it'
            )

    def annotations(self) -> None:
        self.ids_to_numbers(self.content['annotations'], 'image_id', 'annotation')
        self.ids_to_numbers(self.content['annotations'], 'category_id', 'annotation')
        images = {image['id']: image for image in self.content['images']}
        annotations = [a for a in self.content['annotations'] if a['image_id'] in images]
        lost = len(self.content['annotations']) - len(annotations)
        if lost and not annotations:
            raise DataError(
                f'{self.path}: no annotation is of one of its images: image_id '
                f'{_short(self.content["annotations"][0]["image_id"])} is not among the ids {_some(list(images))}'
            )
        self.note(lost, 'annotations of images that the file does not list: left out')
        self.content['annotations'] = annotations
        categories = {category['id'] for category in self.content['categories']}
        bad = [a for a in annotations if a['category_id'] not in categories]
        if bad:
            raise DataError(
                f'{_of(self.path, bad[0])} has the category_id {_short(bad[0]["category_id"])}{_and_more(bad)}: the '
                f'categories of the file have the ids {_some(sorted(categories, key=str))}'
            )
        self.boxes(annotations, images)
        self.crowds(annotations)
        self.areas(annotations)
        self.note(self.text_numbers, 'numbers that are text: read as numbers')
        self.annotation_ids(annotations)

    def ids_to_numbers(self, rows: list[dict], key: str, what: str) -> None:
        """Ids are integers, or names. '12' and 12.0 are 12."""
        values = [row.get(key) for row in rows]
        if not set(map(type, values)) - {int}:
            return
        for row, value in zip(rows, values, strict=True):
            if type(value) is int:
                continue
            number = _number(value)
            if number is not None and number == int(number) and str(int(number)) == str(value).removesuffix('.0'):
                row[key] = int(number)
                self.text_numbers += 1
            elif not isinstance(value, str) or not value or 'category' in (what, key.removesuffix('_id')):
                of = row.get('file_name') or row.get('name') or row.get('id')
                raise DataError(f'{self.path}: {what} {_short(of)}: {key} must be a number, got {_short(value)}')

    def boxes(self, annotations: list[dict], images: dict) -> None:
        computed = 0
        for annotation in annotations:
            if 'bbox' not in annotation:
                annotation['bbox'] = _box_of(annotation.get('segmentation'))
                computed += annotation['bbox'] is not None
        self.note(computed, 'annotations without bbox: computed from the mask')
        boxes = [annotation['bbox'] for annotation in annotations]
        plain = set(map(type, boxes)) <= {list} and set(map(len, boxes)) <= {4}
        if not plain or set(map(type, chain.from_iterable(boxes))) - {int, float}:
            for annotation, box in zip(annotations, boxes, strict=True):
                numbers = _floats(box) if isinstance(box, list) and len(box) == 4 else None
                if numbers is None:
                    bad = [a for a in annotations if not _is_box(a['bbox'])]
                    raise DataError(
                        f'{_of(self.path, annotation)} has the bbox {_short(box)}{_and_more(bad)}: it must be four '
                        'finite numbers [x, y, width, height] in pixels; correct or delete it'
                    )
                if any(isinstance(v, str) for v in box):
                    annotation['bbox'] = numbers
                    self.text_numbers += 1
        boxes = _boxes(annotations)
        sides = {id: FAR * max(_size(image) or (FAR_UNKNOWN / FAR,)) for id, image in images.items()}
        limit = np.array([sides[annotation['image_id']] for annotation in annotations], np.float64)
        with np.errstate(invalid='ignore'):
            ends = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
            far = (np.abs(ends) > limit[:, None]).any(1)
        for wrong, rule in (
            (~np.isfinite(boxes).all(1), 'it must be four finite numbers [x, y, width, height] in pixels'),
            ((boxes[:, 2:] < 0).any(1), 'width and height must not be negative: it is [x, y, width, height] in pixels'),
            (far, 'it lies far outside its image: it is [x, y, width, height] in pixels'),
        ):
            if wrong.any():
                bad = [annotations[i] for i in np.flatnonzero(wrong)]
                raise DataError(
                    f'{_of(self.path, bad[0])} has the bbox {_short(bad[0]["bbox"])}{_and_more(bad)}: {rule}; correct '
                    'or delete it'
                )

    def crowds(self, annotations: list[dict]) -> None:
        values = [annotation.get('iscrowd') for annotation in annotations]
        if set(map(type, values)) <= {int} and set(values) <= {0, 1}:
            return
        missing = 0
        for annotation, value in zip(annotations, values, strict=True):
            if value is None:
                annotation['iscrowd'] = 0
                missing += 1
            elif type(value) is not int or value not in (0, 1):
                if _number(value) not in (0, 1):
                    raise DataError(f'{_of(self.path, annotation)} has iscrowd {_short(value)}: it must be 0 or 1')
                annotation['iscrowd'] = int(_number(value))
        lvis = any('frequency' in category for category in self.content['categories'])  # its files never have iscrowd
        self.note(0 if lvis else missing, 'annotations without iscrowd: read as 0')

    def areas(self, annotations: list[dict]) -> None:
        values = [annotation.get('area') for annotation in annotations]
        if (
            set(map(type, values)) <= {int, float}
            and all(map((0.0).__lt__, map(float, values)))
            and sum(values) < math.inf
        ):
            return
        computed = 0
        for annotation, value in zip(annotations, values, strict=True):
            if type(value) in (int, float) and 0 < value < math.inf:
                continue
            number = _number(value)
            if number is not None and 0 < number < math.inf:
                annotation['area'] = number
                self.text_numbers += 1
                continue
            width, height = annotation['bbox'][2:]
            if value == 0 and (width < 1 or height < 1):
                continue  # as it is in COCO's own files
            annotation['area'] = _area_of(annotation.get('segmentation')) or width * height
            computed += 1
        self.note(computed, 'annotations without a positive area: computed from the mask, or else from the box')

    def annotation_ids(self, annotations: list[dict]) -> None:
        ids = [annotation.get('id') for annotation in annotations]
        if set(map(type, ids)) - {int}:
            reason = 'that are missing or no integers'
        elif ids and min(ids) < 1:
            reason = 'below 1, which the metric would take for "not found"'
        elif len(set(ids)) < len(ids):
            reason = 'that are not unique'
        else:
            return
        for number, annotation in enumerate(annotations, start=1):
            annotation['id'] = number
        self.notes.append(f'{self.path}: has annotation ids {reason}: all {len(ids)} numbered from 1')


# What is checked once classes and folders are known.


def _category_notes(file: CocoFile, ids: list[int]) -> list[str]:
    notes = []
    left_out = [id for id in file.names if id not in set(ids)]
    with_annotations = [f'{file.names[id]!r} ({file.counts[id]})' for id in left_out if file.counts[id]]
    if left_out:
        lost = sum(file.counts[id] for id in left_out)
        named = f': {_some(with_annotations, 5)}' if with_annotations else ''
        notes.append(
            f'{file.path}: {len(left_out)} of {len(file.names)} categories are not among the classes: left out, with '
            f'{lost} annotations{named}'
        )
    empty = [f'{name!r} (id {id})' for id, name in file.names.items() if not file.counts[id]]
    if empty and file.annotations:
        notes.append(f'{file.path}: {len(empty)} categories have no annotation: {_some(empty, 5)}')
    return notes


def _check_images(dataset, file: CocoFile, mode: str) -> list[str]:
    """Are the images there, and of the size that the file states?"""
    folder = dataset.data_prefix.get('img', '')
    name_of = dataset.COCOAPI.file_name
    paths = {image['id']: os.path.join(folder, name_of(image)) for image in file.images}
    if not dataset.COCOAPI.FILE_NAMES_ARE_PATHS:
        return []
    notes, renamed, missing = [], 0, []
    finder = ImageFolder()
    chosen = _chosen(file.images, dataset._indices)
    for image in chosen:
        found = finder.find(paths[image['id']])
        if found is None:
            missing.append(paths[image['id']])
            continue
        renamed += found != paths[image['id']]
        paths[image['id']] = found
    if missing:
        there = (
            sorted(os.listdir(os.path.dirname(missing[0]) or '.'))[:3]
            if os.path.isdir(os.path.dirname(missing[0]))
            else []
        )
        raise DataError(
            f'{file.path}: {len(missing)} of its {len(chosen)} images do not exist, the first is {missing[0]}'
            + (
                f'; that folder has {_some(there)}'
                if there
                else f'; the folder {os.path.dirname(missing[0])} does not exist'
            )
        )
    if renamed:
        notes.append(f'{file.path}: {renamed} images have another suffix or another case on the disk: found')

    computed, stored, undecided = 0, 0, 0
    step = 1 if mode == 'full' else max(1, len(chosen) // SAMPLED)
    sampled = {image['id'] for image in chosen[::step]}
    boxes_of = None
    for image in chosen:
        size = _size(image)
        if size and image['id'] not in sampled:
            continue
        path = paths[image['id']]
        width, height, orientation = image_size(path)
        if size is None:
            if orientation > 1:
                raise DataError(
                    f'{path} has an EXIF orientation, and {file.path} states no width and height for it: whether its '
                    'boxes are of the photo as stored or upright cannot be known; state the size'
                )
            image['width'], image['height'] = width, height
            computed += 1
            continue
        upright = (height, width) if orientation < 5 else (width, height)
        if orientation > 1 and size == (height, width) == upright:
            undecided += 1
        if size == upright:
            continue
        if size != (height, width):
            raise DataError(
                f'{path} has {width}x{height} pixels, {file.path} states {size[1]}x{size[0]}: its boxes are of another '
                'image or of another size of it'
            )
        boxes_of = boxes_of or _boxes_by_image(file)
        ends = [(x + w, y + h) for x, y, w, h in boxes_of[image['id']]]
        if any(x > width + 1 or y > height + 1 for x, y in ends):
            raise DataError(
                f'{path} has an EXIF orientation, {file.path} states the size as stored, {width}x{height}, but has '
                'boxes that reach beyond it: store the photo upright, and state that size'
            )
        stored += 1
    if computed:
        notes.append(f'{file.path}: {computed} images without width and height: read from the images')
    of = '' if step == 1 else f' (of {len(sampled)} looked at)'
    if stored:
        notes.append(
            f'{file.path}: {stored} photos{of} have an EXIF rotation and are stated in the size as stored, so that '
            'their boxes are too: read without turning'
        )
    if undecided:
        notes.append(
            f'{file.path}: {undecided} photos{of} have an EXIF orientation that does not show in the stated size: read '
            'upright'
        )
    return notes


def _check_boxes(file: CocoFile) -> list[str]:
    """Boxes in relation to their images; sizes are known."""
    sizes = {image['id']: _size(image) or (0, 0) for image in file.images}
    height, width = np.array([sizes[a['image_id']] for a in file.annotations], np.float64).reshape(-1, 2).T
    known = height > 0
    if not known.any():
        return []
    height, width, boxes = height[known], width[known], file.boxes[known]
    x, y, w, h = boxes.T
    notes = []
    small = (w < 1) | (h < 1)
    seen = (np.minimum(x + w, width) > np.maximum(x, 0)) & (np.minimum(y + h, height) > np.maximum(y, 0))
    for count, what in (
        (small.sum(), 'boxes are less than a pixel wide or high'),
        ((~small & ~seen).sum(), 'boxes lie outside their image'),
    ):
        if count:
            notes.append(f'{file.path}: {count} {what}: left out in training, counted in evaluation')
    beyond = (x + w > 1.1 * width) | (y + h > 1.1 * height)
    if 2 * beyond.sum() > len(boxes):
        notes.append(
            f'{file.path}: {beyond.sum()} of {len(boxes)} boxes reach far beyond their image: are they [x1, y1, x2, '
            'y2]? COCO has [x, y, width, height]'
        )
    if not (seen & ~small).any():
        raise DataError(
            f'{file.path}: none of {len(boxes)} boxes is a pixel large and inside its image, the first is '
            f'{_short(boxes[0].tolist())}: they must be [x, y, width, height] in pixels'
        )
    return notes


def _check_filter(dataset, file: CocoFile, ids: set) -> None:
    """Is an image left to train on?"""
    options = dataset.filter_cfg or {}
    least = options.get('min_size', 0)
    with_objects = {a['image_id'] for a in file.annotations if a['category_id'] in ids}
    if not with_objects:
        raise DataError(f'{file.path}: has no annotation of the classes {_some(list(dataset.metainfo["classes"]), 5)}')
    empty = small = left = 0
    for image in file.images:
        size = _size(image)
        if options.get('filter_empty_gt') and image['id'] not in with_objects:
            empty += 1
        elif size and min(size) < least:
            small += 1
        else:
            left += 1
    if not left:
        raise DataError(
            f'{file.path}: all {len(file.images)} images are filtered away: {empty} without objects (filter_empty_gt), '
            f'{small} with a side of less than {least} pixels (min_size)'
        )


def _check_same_images(file: CocoFile, datasets: list, api) -> list[str]:
    """Every image of the data sets must be an image of the metric's file, under the same id and name."""
    theirs = {image['id']: api.file_name(image) for image in file.images}
    wanted, wrong = {}, []
    for dataset in datasets:
        if not _is_local(dataset):
            return []
        images = read_coco(dataset.ann_file, keep=True).images
        for image in _chosen(images, dataset._indices):
            name = dataset.COCOAPI.file_name(image)
            if not _same_name(wanted.setdefault(image['id'], name), name):
                raise DataError(
                    f'image id {image["id"]} is {wanted[image["id"]]!r} in one data set and {name!r} in another: one '
                    'metric cannot tell them apart; give them different ids'
                )
            if not _same_name(theirs.get(image['id']), name):
                wrong.append((image['id'], name))
    if wrong:
        id, name = wrong[0]
        there = f'which is {theirs[id]!r} there' if id in theirs else 'which it does not have'
        raise DataError(
            f'{file.path} is not the file of these images: {len(wrong)} of {len(wanted)} images of the data set '
            f'({_some([d.ann_file for d in datasets])}) are not in it, the first is image {id}, {name!r}, {there}'
        )
    if len(wanted) < len(theirs):
        return [f'{file.path}: evaluated on {len(wanted)} of its {len(theirs)} images, those that the data set has']
    return []


# Small things.


@contextmanager
def _prefixed(where: str) -> Iterator[None]:
    """Prefixes the message of a DataError with `where`."""
    try:
        yield
    except DataError as error:
        raise DataError(f'{where}: {error}') from error


def _missing_classes(missing: list[str], classes: Sequence[str], names: list[str]) -> str:
    said = []
    for name in missing[:5]:
        near = nearest(name, names)
        said.append(f'{name!r}' + (f' (nearest: {", ".join(map(repr, near))})' if near else ''))
    more = f' and {len(missing) - 5} more' if len(missing) > 5 else ''
    return (
        f'has no category {", ".join(said)}{more} of the {len(classes)} classes; it has '
        f'{_some([repr(n) for n in names], 10)}: set `classes` to names of the file'
    )


def _parts(rows: list, length: int) -> Iterator[list]:
    for start in range(0, len(rows), length):
        yield rows[start : start + length]


def _plain_polygons(annotations: list[dict], limit: float) -> bool:
    """Whether none of the masks needs `usable_mask`: a fast test that holds for most annotations."""
    masks = [annotation.get('segmentation') for annotation in annotations]
    if not all(masks) or set(map(type, masks)) - {list}:
        return False
    polygons = list(chain.from_iterable(masks))
    if set(map(type, polygons)) - {list} or any(length < 6 or length % 2 for length in set(map(len, polygons))):
        return False
    try:
        for polygon in polygons:
            sum(polygon)  # refuses what numpy would read: texts and None
        values = np.fromiter(chain.from_iterable(polygons), np.float64)
    except TypeError:
        return False
    return bool(np.abs(values).max() <= limit)


def _check_run_lengths(mask: dict, size: tuple[int, int] | None) -> None:
    stated, counts = mask.get('size'), mask.get('counts')
    if not (isinstance(stated, list) and len(stated) == 2 and all(type(v) is int and v > 0 for v in stated)):
        raise ValueError(f'has run lengths with the size {_short(stated)}: it must be [height, width]')
    if size and tuple(stated) != size:
        raise ValueError(f'has run lengths for {stated[1]}x{stated[0]} pixels in an image of {size[1]}x{size[0]}')
    if isinstance(counts, str):
        counts = _run_lengths(counts)
    elif not isinstance(counts, list) or not all(type(v) is int for v in counts):
        raise ValueError(
            f'has run lengths whose counts are {_short(counts)}: they must be a text or a list of integers'
        )
    if len(counts) == 0 or min(counts) < 0 or sum(map(int, counts)) != stated[0] * stated[1]:
        raise ValueError(
            f'has run lengths that cover {sum(map(int, counts))} pixels of the {stated[0] * stated[1]} of its image'
        )


def _run_lengths(text: str) -> np.ndarray:
    """COCO's compressed counts: 5 bits to a character, from the fourth on differences to the last but one."""
    codes = np.frombuffer(text.encode('utf-8'), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("has run lengths that are broken off or not of COCO's code")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 7:
        raise ValueError("has run lengths that are not of COCO's code")
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * (place[ends] + 1)), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _area_of(mask) -> float | None:
    """Pixels of a mask; None where it has no usable one."""
    try:
        mask = usable_mask(mask, None)
    except ValueError:
        return None
    if isinstance(mask, dict):
        counts = mask['counts']
        return float(np.sum((_run_lengths(counts) if isinstance(counts, str) else np.array(counts))[1::2]))
    area = 0.0
    for polygon in mask:
        x, y = np.array(polygon, np.float64).reshape(-1, 2).T
        area += abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    return area


def _box_of(mask) -> list[float] | None:
    """[x, y, width, height] of polygons; None where there are none."""
    try:
        mask = usable_mask(mask, None)
    except ValueError:
        return None
    if isinstance(mask, dict):
        return None
    points = np.array(list(chain.from_iterable(mask)), np.float64).reshape(-1, 2)
    return [*points.min(0).tolist(), *(points.max(0) - points.min(0)).tolist()]


def _is_local(dataset) -> bool:
    backend = (dataset.backend_args or {}).get('backend', 'local')
    return backend == 'local' and not any('://' in path for path in (dataset.ann_file, *dataset.data_prefix.values()))


def _size(image: dict) -> tuple[int, int] | None:
    height, width = image.get('height'), image.get('width')
    return (height, width) if height and width else None


def _same_name(one: str | None, other: str) -> bool:
    """Whether both name the same image, also if only one of the names includes the folder."""
    return one is not None and f'/{one}'.endswith(f'/{other}') or f'/{other}'.endswith(f'/{one}')


def _chosen(images: list[dict], indices) -> list[dict]:
    """The images that the `indices` argument of a data set selects."""
    if indices is None:
        return images
    if isinstance(indices, int):
        return images[:indices] if indices >= 0 else images[indices:]
    return [images[index] for index in indices]


def _boxes(annotations: list[dict]) -> np.ndarray:
    """(N, 4) as [x, y, width, height]."""
    values = chain.from_iterable(annotation['bbox'] for annotation in annotations)
    return np.fromiter(values, np.float64, 4 * len(annotations)).reshape(-1, 4)


def _boxes_by_image(file: CocoFile) -> dict:
    boxes = defaultdict(list)
    for annotation in file.annotations:
        boxes[annotation['image_id']].append(annotation['bbox'])
    return boxes


def _number(value) -> float | None:
    """A number, or a text that is one."""
    if isinstance(value, (int, float, str)):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None
    return None


def _floats(values: list) -> list | None:
    """Numbers, those that are text read as such; None where one is something else."""
    try:
        return None if bool in map(type, values) else [v if type(v) in (int, float) else float(v) for v in values]
    except (TypeError, ValueError):
        return None


def _is_box(box) -> bool:
    return isinstance(box, list) and len(box) == 4 and _floats(box) is not None


def _of(path: str, annotation: dict) -> str:
    return f'{path}: annotation {_short(annotation.get("id"))} (image {_short(annotation.get("image_id"))})'


def _and_more(bad: list) -> str:
    return f' (and {len(bad) - 1} more like it)' if len(bad) > 1 else ''


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


def _some(values: list, most: int = 3) -> str:
    return ', '.join(map(str, values[:most])) + (f' and {len(values) - most} more' if len(values) > most else '')
