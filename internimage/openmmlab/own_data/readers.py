"""Reading a folder of data: COCO json, YOLO txt, LabelMe json, Pascal VOC xml, and the exports of Roboflow in these."""

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ..datasets.checks.coco import image_size, read_coco, usable_mask
from ..datasets.checks.errors import DataError
from ..datasets.image_folders import SUFFIXES
from .pictures import Found, Picture, Problem, Thing

PARTS = {
    'train': ('train', 'training', 'trn', 'trainval'),
    'val': ('val', 'valid', 'validation', 'dev'),
    'test': ('test', 'testing'),
}
SKIPPED = {'__MACOSX', 'work_dirs', 'node_modules'}
EXPECTED = (
    'COCO json, YOLO txt with or without a yaml, LabelMe json, Pascal VOC xml, or label maps (png) of the same names '
    'as the images'
)


class Files:
    """The files below a folder, by kind; hidden ones are left out."""

    def __init__(self, root: str):
        self.root = os.path.abspath(root)
        self.all: list[str] = []
        for place, folders, names in os.walk(self.root, followlinks=True):
            folders[:] = sorted(folder for folder in folders if not folder.startswith('.') and folder not in SKIPPED)
            self.all += [os.path.join(place, name) for name in sorted(names) if not name.startswith('.')]
        self.images = self.of(*SUFFIXES)
        self.known = set(self.all)
        self._by_name = defaultdict(list)
        self._by_stem = defaultdict(list)
        for path in self.images:
            name = os.path.basename(path).lower()
            self._by_name[name].append(path)
            self._by_stem[os.path.splitext(name)[0]].append(path)

    def of(self, *suffixes: str) -> list[str]:
        return [path for path in self.all if path.lower().endswith(suffixes)]

    def relative(self, path: str) -> str:
        return os.path.relpath(path, self.root)

    def image(self, name: str, beside: str, part: str = 'all') -> str | None:
        """The image that a file in the folder `beside` calls `name`: there, below the root, or the only one of that
        name (or of that name with another suffix) anywhere; of several that of the same part, or the nearest one."""
        name = name.replace('\\', '/')
        for folder in (beside, self.root, os.path.join(beside, 'images'), os.path.join(self.root, 'images')):
            path = os.path.normpath(os.path.join(folder, name))
            if path in self.known:
                return path
        base = os.path.basename(name).lower()
        found = self._by_name.get(base) or self._by_stem.get(os.path.splitext(base)[0]) or []
        if len(found) > 1:
            shared = [len(os.path.commonpath([path, beside])) for path in found]
            shared = [
                length + 10000 * (part == part_of(path, self.root)) for length, path in zip(shared, found, strict=True)
            ]
            if shared.count(max(shared)) > 1:
                return None
            return found[shared.index(max(shared))]
        return found[0] if found else None


def part_of(path: str, root: str = '') -> str:
    """'train', 'val' or 'test' by the words of a path below the root, the last one first; else 'all'."""
    words = re.split('[^a-z]+', (os.path.relpath(path, root) if root else path).lower())
    for word in reversed(words):
        for part, names in PARTS.items():
            if word in names:
                return part
    return 'all'


def read_folder(root: str, task: str | None = None, classes: list[str] | None = None) -> Found:
    """The data of a folder in the format that lies there.

    Args:
        task: 'det', 'inst', 'sem', or None: what the data hold.
        classes: names, for formats that have none (label maps, YOLO txt without a list of them).

    Raises:
        DataError: nothing is there that the task needs.
    """
    from .label_maps import read_label_maps

    files = Files(root)
    if not files.images:
        raise DataError(f'{root}: there is no image in this folder; expected images with {EXPECTED}')
    problems: list[Problem] = []
    readers: list[Callable] = [read_coco_files, read_yolo, read_labelme, read_voc]
    if task != 'sem':
        for reader in readers:
            found = reader(files, problems, classes)
            if found is not None:
                return _finished(found, task, files)
    found = read_label_maps(files, problems, classes, instances=task in ('det', 'inst'))
    if found is None:
        seen = f'; {problems[0].where}: {problems[0].kind} ({problems[0].detail})' if problems else ''
        needs = 'no label map for' if task == 'sem' else 'no annotation for'
        wanted = 'png files of the same names as the images, in a folder of their own' if task == 'sem' else EXPECTED
        raise DataError(f'{root}: {needs} its {len(files.images)} images; expected {wanted}{seen}')
    return _finished(found, task, files)


def _finished(found: Found, task: str | None, files: Files) -> Found:
    found.parts = {part: found.parts[part] for part in ('train', 'val', 'test', 'all') if found.parts.get(part)}
    if not found.parts:
        first = next(iter(found.problems), None)
        why = (
            f'; the first of {len(found.problems)} problems: {first.where}: {first.kind} {first.detail}'
            if first
            else ''
        )
        raise DataError(f'{found.root}: {found.format}, but no picture with annotations{why}')
    if 'train' not in found.parts and 'all' not in found.parts:
        part, pictures = next(iter(found.parts.items()))
        found.parts = {'all': pictures}
        found.annotation_files = {}
        found.folders = {'all': found.folders[part]} if found.folders else {}
    if 'train' in found.parts and 'all' in found.parts:  # some folders say what they are for, others do not
        found.parts['train'] += found.parts.pop('all')
        found.annotation_files.pop('all', None)
    if not found.is_segmentation:
        things = [thing for picture in found.pictures() for thing in picture.things]
        if not things:
            first = next(iter(found.problems), None)
            why = f'; {first.where}: {first.kind} {first.detail}' if first else ''
            raise DataError(
                f'{found.root}: {found.format}, but no object in {sum(map(len, found.parts.values()))} pictures{why}'
            )
        found.has_masks = sum(thing.mask is not None for thing in things) > len(things) / 2
        if task == 'inst' and not found.has_masks:
            raise DataError(f'{found.root}: {found.format} with boxes alone; --task inst needs masks: take --task det')
        if found.has_masks and task != 'det':
            for picture in found.pictures():
                kept = [thing for thing in picture.things if thing.mask is not None]
                missing = len(picture.things) - len(kept)
                if missing:
                    found.problems.append(
                        Problem('object without a mask, left out', picture.path, f'{missing} objects')
                    )
                    found.annotation_files.clear()
                picture.things = kept
    return found


def _names(classes: list[str] | None, count: int, problems: list[Problem], where: str) -> list[str]:
    """`classes`, or numbered names where there are none, or too few."""
    names = list(classes or ())[: max(count, len(classes or ()))]
    if len(names) < count:
        problems.append(
            Problem('names of classes are not known: edit `classes`', where, f'{count - len(names)} numbered ones')
        )
    return names + [f'class_{index}' for index in range(len(names), count)]


def list_of_names(files: Files, *names: str) -> tuple[list[str], str] | None:
    """The lines of the first file of one of these names."""
    for path in files.all:
        if os.path.basename(path).lower() in names:
            lines = Path(path).read_text(encoding='utf-8-sig', errors='replace').splitlines()
            return [line.strip() for line in lines if line.strip()], path
    return None


def _load_json(path: str, problems: list[Problem]):
    try:
        with open(path, encoding='utf-8-sig') as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        problems.append(Problem('annotation file cannot be read', path, str(error)))
        return None


# --- COCO json


def read_coco_files(files: Files, problems: list[Problem], classes=None) -> Found | None:
    contents = {}
    for path in files.of('.json'):
        if _first_keys(path) & {'images', 'annotations', 'categories', 'info', 'licenses'}:
            content = _load_json(path, problems)
            if isinstance(content, dict) and isinstance(content.get('images'), list) and 'annotations' in content:
                contents[path] = content
    contents = _one_file_a_part(contents, files, problems)
    if not contents:
        return None
    names: dict[str, None] = {}
    for content in contents.values():
        used = {annotation.get('category_id') for annotation in content['annotations'] if isinstance(annotation, dict)}
        categories = [each for each in content.get('categories') or () if isinstance(each, dict) and 'name' in each]
        above = {each.get('supercategory') for each in categories}
        for each in categories:  # Roboflow's category 0 is the name of the project
            if each.get('id') in used or not (
                each['name'] in above and each.get('supercategory') in (None, '', 'none')
            ):
                names[str(each['name'])] = None
    found = Found('COCO json', files.root, list(names), {}, problems)
    labels = {name: label for label, name in enumerate(found.classes)}
    for path, content in contents.items():
        part = part_of(path, files.root)
        before = len(problems)
        try:
            problems += [
                Problem('mended when it is read', path, note.removeprefix(f'{path}: '))
                for note in read_coco(path).notes
            ]
        except DataError as error:
            problems.append(
                Problem('refused as a whole; read item by item', path, str(error).removeprefix(f'{path}: '))
            )
        pictures = _pictures_of_coco(path, content, labels, files, problems)
        found.parts.setdefault(part, []).extend(pictures)
        if len(problems) == before and {str(c['name']) for c in content['categories']} >= set(names):
            found.annotation_files[part] = path
    return found


def _first_keys(path: str) -> set[str]:
    """Words in quotes at the beginning of a json."""
    with open(path, encoding='utf-8-sig', errors='replace') as file:
        return set(re.findall(r'"(\w+)"\s*:', file.read(20000)))


def _one_file_a_part(contents: dict, files: Files, problems: list[Problem]) -> dict:
    """Of several files of the same images (instances, persons, captions) the one with most annotations."""
    best = {}
    for path, content in contents.items():
        if not content['annotations'] and 'test' not in part_of(path, files.root):
            problems.append(Problem('annotation file without annotations, left out', path))
            continue
        names = frozenset(str(image.get('file_name')) for image in content['images'] if isinstance(image, dict))
        key = part_of(path, files.root), names
        boxes = sum(isinstance(each, dict) and 'bbox' in each for each in content['annotations'])
        if key not in best or boxes > best[key][0]:
            best[key] = boxes, path
    return {path: contents[path] for _, path in best.values()}


def _pictures_of_coco(path: str, content: dict, labels: dict, files: Files, problems: list[Problem]) -> list[Picture]:
    pictures, missing = {}, 0
    categories = {
        each.get('id'): str(each.get('name')) for each in content.get('categories') or () if isinstance(each, dict)
    }
    for image in content['images']:
        name = image.get('file_name') if isinstance(image, dict) else None
        file = files.image(str(name), os.path.dirname(path), part_of(path, files.root)) if name else None
        if file is None:
            problems.append(Problem('image does not exist', str(name), f'listed in {path}'))
            missing += 1
            continue
        if image.get('id') in pictures:
            problems.append(Problem('image id is there twice, one left out', path, f'id {image.get("id")}, {name}'))
            continue
        size = [image.get(key) if isinstance(image.get(key), int) else 0 for key in ('width', 'height')]
        pictures[image.get('id')] = Picture(file, *size)
    known = {image.get('id') for image in content['images'] if isinstance(image, dict)}
    for annotation in content['annotations']:
        thing, wrong = _thing_of_coco(annotation, categories, labels, pictures)
        if wrong and not (isinstance(annotation, dict) and annotation.get('image_id') in known - pictures.keys()):
            where = annotation.get('id') if isinstance(annotation, dict) else annotation
            problems.append(Problem('annotation that cannot be used, left out', path, f'annotation {where} {wrong}'))
        elif thing:
            pictures[annotation['image_id']].things.append(thing)
    return list(pictures.values())


def _thing_of_coco(annotation, categories: dict, labels: dict, pictures: dict) -> tuple[Thing | None, str]:
    if not isinstance(annotation, dict):
        return None, 'is not an object of json'
    picture = pictures.get(annotation.get('image_id'))
    if picture is None:
        return None, f'is of image {annotation.get("image_id")!r}, which is not in the file'
    name = categories.get(annotation.get('category_id'))
    if name is None:
        return None, f'has the category {annotation.get("category_id")!r}, which is not in the file'
    if name not in labels:
        return None, f'has the category {name!r}'
    mask = annotation.get('segmentation') or None
    if mask is not None:
        try:
            mask = usable_mask(mask, (picture.height, picture.width) if picture.height else None)
        except ValueError as error:
            return None, str(error)
    box = annotation.get('bbox')
    if not (isinstance(box, list) and len(box) == 4 and all(_is_finite(value) for value in box)):
        return None, f'has the bbox {box!r}, which is not [x, y, width, height] in pixels'
    x, y, width, height = map(float, box)
    return Thing(labels[name], (x, y, x + width, y + height), mask, bool(annotation.get('iscrowd'))), ''


def _is_finite(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


# --- YOLO


def read_yolo(files: Files, problems: list[Problem], classes=None) -> Found | None:
    """Ultralytics' layout, with its yaml or without: `labels/NAME.txt` beside `images/`, or beside the image."""
    description = _yolo_yaml(files, problems)
    names, folders = description or (None, {})
    if names is None:
        listed = list_of_names(files, 'classes.txt', 'obj.names', 'labels.txt', 'class.names', '_darknet.labels')
        names = listed[0] if listed else None
    labels = {path for path in files.of('.txt') if _is_yolo_text(path)}
    if not labels:
        return None
    found = Found('YOLO txt', files.root, [], {}, problems)
    used = set()
    highest = -1
    wrong: list[tuple] = []
    for path in files.images:
        part = next((part for part, places in folders.items() if any(_inside(path, place) for place in places)), None)
        part = part or part_of(path, files.root)
        text = next((each for each in _label_files(path) if each in files.known), None)
        things, bad = [], []
        if text is not None:
            used.add(text)
            things, bad = _read_yolo_text(text)
        elif labels and os.path.dirname(path).split(os.sep)[-1] in ('runs', 'docs'):
            continue
        wrong += bad
        highest = max([highest, *(thing.label for thing in things)])
        found.parts.setdefault(part, []).append(Picture(path, things=things))
    problems += [Problem(kind, where, detail) for kind, where, detail in wrong]
    if names is None:
        names = _names(classes, highest + 1, problems, files.root)
    elif classes:
        names = list(classes)
    found.classes = names
    for picture in found.pictures():
        beyond = [thing for thing in picture.things if thing.label >= len(names)]
        for thing in beyond:
            detail = f'class {thing.label}, of {len(names)} classes (0 to {len(names) - 1})'
            problems.append(Problem('class that does not exist, object left out', picture.path, detail))
        picture.things = [thing for thing in picture.things if thing.label < len(names)]
        _to_pixels(picture)
    problems += [Problem('annotations without an image', path) for path in sorted(labels - used)]
    without = sum(not picture.things for picture in found.pictures())
    if without:
        problems.append(Problem('pictures without objects (background)', files.root, f'{without} pictures'))
    return found


def _yolo_yaml(files: Files, problems: list[Problem]) -> tuple[list[str], dict] | None:
    import mmengine

    for path in files.of('.yaml', '.yml'):
        try:
            content = mmengine.load(path)
        except Exception as error:  # of the yaml parser
            problems.append(Problem('yaml cannot be read', path, ' '.join(str(error).split())[:200]))
            continue
        names = content.get('names') if isinstance(content, dict) else None
        if not names:
            continue
        names = [str(names[key]) for key in sorted(names)] if isinstance(names, dict) else [str(name) for name in names]
        count = content.get('nc')
        if isinstance(count, int) and count != len(names):
            problems.append(Problem('nc is not the number of names', path, f'nc {count}, {len(names)} names'))
        folders = {}
        for part, keys in PARTS.items():
            stated = next((content[key] for key in keys if content.get(key)), None)
            places = [stated] if isinstance(stated, str) else stated or []
            for place in places:
                resolved = _yolo_place(str(place), path, str(content.get('path') or ''), files.root)
                if resolved is None:
                    problems.append(Problem('folder of the yaml does not exist', path, f'{part}: {place}'))
                else:
                    folders.setdefault(part, []).append(resolved)
        return names, folders
    return None


def _yolo_place(place: str, yaml: str, base: str, root: str):
    """A folder of images, or the set of images that a list names. Roboflow writes '../train/images'."""
    beside = os.path.dirname(yaml)
    inside = re.sub(r'^(\.\.?/)+', '', place)
    for candidate in (
        os.path.join(beside, base, place), os.path.join(beside, place), os.path.join(root, inside),
        os.path.join(root, os.path.basename(base), place),
    ):  # fmt: skip
        candidate = os.path.normpath(candidate)
        if os.path.isdir(candidate) and candidate.startswith(root):
            return candidate
        if os.path.isfile(candidate):
            lines = Path(candidate).read_text().split('\n')
            return {
                os.path.normpath(os.path.join(os.path.dirname(candidate), line.strip()))
                for line in lines
                if line.strip()
            }
    return None


def _inside(path: str, place) -> bool:
    return path in place if isinstance(place, set) else path.startswith(place + os.sep)


def _label_files(image: str) -> list[str]:
    """Where the annotations of an image may be: in the last folder `images` of its path replaced by `labels`, or
    beside."""
    stem = os.path.splitext(image)[0]
    head, found, tail = stem.rpartition(f'{os.sep}images{os.sep}')
    return [*([f'{head}{os.sep}labels{os.sep}{tail}.txt'] if found else []), f'{stem}.txt']


def _is_yolo_text(path: str) -> bool:
    """Is the file below a folder `labels`, or is its first line a class and numbers?"""
    if f'{os.sep}labels{os.sep}' in path:
        return True
    with open(path, encoding='utf-8', errors='replace') as file:
        words = file.readline().split()
    return len(words) >= 5 and words[0].isdigit() and all(_float(word) is not None for word in words)


def _float(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read_yolo_text(path: str) -> tuple[list[Thing], list[tuple]]:
    """Things with coordinates in parts of the picture's sides, and what is wrong."""
    things, wrong, seen = [], [], set()
    lines = Path(path).read_text(encoding='utf-8-sig', errors='replace').splitlines()
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        where = f'line {number}: {line[:60]}'
        values = [_float(word) for word in words]
        if None in values or len(words) not in (5, 6) and (len(words) < 7 or len(words) % 2 == 0):
            wrong.append(
                ('line that is not "class x y width height" or "class x1 y1 x2 y2 ...", left out', path, where)
            )
            continue
        if values[0] < 0 or values[0] != int(values[0]):
            wrong.append(('class that does not exist, object left out', path, where))
            continue
        if max(values[1:]) > 1.05 or min(values[1:]) < -0.05:
            wrong.append(('coordinates outside 0 to 1 (pixels?), object left out', path, where))
            continue
        if tuple(values) in seen:
            wrong.append(('object that is there twice, one left out', path, where))
            continue
        seen.add(tuple(values))
        if len(words) in (5, 6):
            x, y, width, height = values[1:5]
            things.append(Thing(int(values[0]), (x - width / 2, y - height / 2, x + width / 2, y + height / 2)))
        else:
            xs, ys = values[1::2], values[2::2]
            things.append(Thing(int(values[0]), (min(xs), min(ys), max(xs), max(ys)), [values[1:]]))
    return things, wrong


def _to_pixels(picture: Picture) -> None:
    if not picture.things:
        return
    size = _upright_size(picture.path)
    if size is None:
        return  # the picture is dropped when it is read
    width, height = size
    for thing in picture.things:
        x1, y1, x2, y2 = thing.box
        thing.box = tuple(round(value, 2) for value in (x1 * width, y1 * height, x2 * width, y2 * height))
        if thing.mask:
            thing.mask = [
                [round(v * (height if i % 2 else width), 2) for i, v in enumerate(part)] for part in thing.mask
            ]


def _upright_size(path: str) -> tuple[int, int] | None:
    try:
        width, height, orientation = image_size(path)
    except DataError:
        return None
    return (height, width) if orientation >= 5 else (width, height)


# --- LabelMe


def read_labelme(files: Files, problems: list[Problem], classes=None) -> Found | None:
    paths = [path for path in files.of('.json') if 'shapes' in _first_keys(path)]
    if not paths:
        return None
    contents = {path: content for path in paths if isinstance(content := _load_json(path, problems), dict)}
    names = {str(shape.get('label')) for content in contents.values() for shape in content.get('shapes') or ()}
    found = Found('LabelMe json', files.root, list(classes or sorted(names)), {}, problems)
    labels = {name: label for label, name in enumerate(found.classes)}
    for path, content in contents.items():
        named = str(content.get('imagePath') or '') or f'{Path(path).stem}.jpg'
        image = files.image(named, os.path.dirname(path)) or files.image(
            f'{Path(path).stem}.jpg', os.path.dirname(path)
        )
        if image is None:
            problems.append(Problem('image does not exist', path, named))
            continue
        picture = Picture(image, *(int(content.get(key) or 0) for key in ('imageWidth', 'imageHeight')))
        for number, shape in enumerate(content.get('shapes') or (), start=1):
            points, wrong = _labelme_points(shape)
            name = str(shape.get('label'))
            if name not in labels:
                wrong = f'label {name!r} is not one of the classes'
            if wrong:
                problems.append(Problem('shape that cannot be used, left out', path, f'shape {number}: {wrong}'))
                continue
            xs, ys = points[:, 0], points[:, 1]
            box = float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())
            mask = [points.round(2).ravel().tolist()]
            picture.things.append(Thing(labels[name], box, mask))
        found.parts.setdefault(part_of(image, files.root), []).append(picture)
    return found


def _labelme_points(shape: dict) -> tuple[np.ndarray | None, str]:
    """The outline of a shape, (N, 2) as x, y in pixels, or what is wrong."""
    kind = shape.get('shape_type') or 'polygon'
    try:
        points = np.asarray(shape.get('points'), float).reshape(-1, 2)
    except (TypeError, ValueError):
        return None, f'points {str(shape.get("points"))[:60]}'
    if not np.isfinite(points).all():
        return None, 'points that are no numbers'
    if kind == 'rectangle' and len(points) == 2:
        (x1, y1), (x2, y2) = points
        return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), ''
    if kind == 'circle' and len(points) == 2:
        radius = np.hypot(*(points[1] - points[0]))
        angles = np.linspace(0, 2 * np.pi, 33)[:-1]
        return points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], 1), ''
    if kind in ('polygon', 'rectangle', 'rotation') and len(points) >= 3:
        return points, ''
    return None, f'a {kind} of {len(points)} points has no area'


# --- Pascal VOC


def read_voc(files: Files, problems: list[Problem], classes=None) -> Found | None:
    """Boxes from (xmin, ymin), counted from 1 as in Pascal VOC, to (xmax, ymax), which is the last pixel."""
    paths = files.of('.xml')
    lists = _voc_lists(files)
    found, names = Found('Pascal VOC xml', files.root, [], {}, problems), {}
    read = []
    for path in paths:
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, OSError, ValueError) as error:
            problems.append(Problem('annotation file cannot be read', path, str(error)))
            continue
        if root.tag == 'annotation':
            read.append((path, root))
    if not read:
        return None
    for path, root in read:
        stem = Path(path).stem
        image = files.image(f'{stem}.jpg', os.path.dirname(path)) or files.image(
            root.findtext('filename') or stem, os.path.dirname(path)
        )
        if image is None:
            problems.append(Problem('image does not exist', path, root.findtext('filename') or stem))
            continue
        size = [
            int(text) if (text := root.findtext(f'size/{key}') or '').isdigit() else 0 for key in ('width', 'height')
        ]
        picture = Picture(image, *size)
        for number, each in enumerate(root.findall('object'), start=1):
            name = (each.findtext('name') or '').strip()
            corners = [_float(each.findtext(f'bndbox/{key}') or '') for key in ('xmin', 'ymin', 'xmax', 'ymax')]
            if not name or None in corners:
                problems.append(
                    Problem('object that cannot be used, left out', path, f'object {number} ({name}): {corners}')
                )
                continue
            x1, y1, x2, y2 = corners
            if x2 <= x1 or y2 <= y1:
                text = f'object {number} ({name}), box {x1:g}, {y1:g}, {x2:g}, {y2:g}'
                problems.append(Problem('box without area, left out', path, text))
                continue
            names[name] = None
            label = list(names).index(name)
            crowd = each.findtext('difficult') == '1'
            picture.things.append(Thing(label, (max(x1 - 1, 0.0), max(y1 - 1, 0.0), x2, y2), None, crowd))
        part = lists.get(stem) if lists else part_of(image, files.root)
        if part is None:
            problems.append(Problem('picture that no list in ImageSets names, left out', path))
            continue
        found.parts.setdefault(part, []).append(picture)
    listed = {Path(path).stem for path in paths}
    problems += [
        Problem('annotations that a list names do not exist', name, part)
        for name, part in lists.items()
        if name not in listed
    ]
    found.classes = list(names)
    if classes:
        _rename(found, classes)
    return found


def _rename(found: Found, classes: list[str]) -> None:
    """Labels in the order of `classes`; objects of other names are left out."""
    labels = {old: classes.index(name) for old, name in enumerate(found.classes) if name in classes}
    others = [name for name in found.classes if name not in classes]
    if others:
        found.problems.append(
            Problem('names that are not among --classes, their objects left out', found.root, ', '.join(others))
        )
    for picture in found.pictures():
        picture.things = [thing for thing in picture.things if thing.label in labels]
        for thing in picture.things:
            thing.label = labels[thing.label]
    found.classes = list(classes)


def _voc_lists(files: Files) -> dict[str, str]:
    """{name: part} of the lists in ImageSets/Main; `trainval` and lists of single classes are not read."""
    parts = {}
    for path in files.of('.txt'):
        if f'{os.sep}ImageSets{os.sep}' in path and Path(path).stem in ('train', 'val', 'test'):
            for line in Path(path).read_text(encoding='utf-8-sig').splitlines():
                if words := line.split():
                    parts.setdefault(words[0], Path(path).stem)
    return parts
