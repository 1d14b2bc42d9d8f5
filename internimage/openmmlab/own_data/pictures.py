"""What is found in a folder of data, whatever its format: pictures with their objects or label maps, and problems."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from ..datasets.checks import images
from ..datasets.checks.coco import image_size
from ..datasets.checks.errors import DataError

DECODED = 1000  # pictures of a data set that are read to the end; of the others the header alone
VALIDATION = 0.2  # of the pictures, where the data have one part alone
SLACK = 1.0  # pixels by which a box may leave its picture without a word


class Problem(NamedTuple):
    """`kind`: what is wrong, the same text for all of a kind; `where`: the file; `detail`: which object, which
    value."""

    kind: str
    where: str
    detail: str = ''


@dataclass
class Thing:
    """An annotated object. `box`: (x1, y1, x2, y2) in pixels of the upright picture; `mask`: COCO's polygons or run
    lengths, or None; `crowd`: a region that is not counted."""

    label: int
    box: tuple[float, float, float, float]
    mask: list | dict | None = None
    crowd: bool = False

    @property
    def sides(self) -> tuple[float, float]:
        return self.box[2] - self.box[0], self.box[3] - self.box[1]


@dataclass
class Picture:
    """An image file with its objects, or the file of its label map and the pixels of each class in it (if it was read).

    Width and height in pixels, upright; 0: not read yet. `same_as`: the first picture of the same content.
    """

    path: str
    width: int = 0
    height: int = 0
    things: list[Thing] = field(default_factory=list)
    label_map: str | None = None
    pixels: Counter = field(default_factory=Counter)
    same_as: str | None = None


@dataclass
class Found:
    """The data of a folder.

    `parts`: pictures by 'train', 'val', 'test'; one part alone is 'all' until it is split. `label_values`,
    `ignored_values`, `ignore_index`, suffixes: as `datasets.LabelMapDataset` takes them. `folders`: by part, of the
    images and of the label maps. `annotation_files`: by part, where a file in COCO's format can be used as it is.
    """

    format: str
    root: str
    classes: list[str]
    parts: dict[str, list[Picture]]
    problems: list[Problem] = field(default_factory=list)
    has_masks: bool = False
    label_values: list = field(default_factory=list)
    ignored_values: list = field(default_factory=list)
    ignore_index: int = 255
    image_suffix: str = '.jpg'
    label_map_suffix: str = '.png'
    folders: dict[str, tuple[str, str]] = field(default_factory=dict)
    annotation_files: dict[str, str] = field(default_factory=dict)

    @property
    def is_segmentation(self) -> bool:
        return bool(self.folders)

    def pictures(self) -> Iterator[Picture]:
        for part in self.parts.values():
            yield from part


def check_pictures(found: Found, progress=None) -> set[str]:
    """Reads every picture, or its header (see DECODED); drops those that cannot be read, and what no box can mean.

    Returns:
        the parts of which something was dropped or changed.
    """
    changed, files = set(), defaultdict(list)
    pictures = [(part, picture) for part, every in found.parts.items() for picture in every]
    step = max(1, -(-len(pictures) // DECODED))
    with ThreadPoolExecutor(4) as pool:
        looks = pool.map(_look, [(picture, i % step == 0) for i, (_, picture) in enumerate(pictures)])
        for (part, picture), (size, digest, problems) in zip(pictures, looks, strict=True):
            found.problems += problems
            if size is None:
                picture.width = picture.height = 0
                changed.add(part)
            else:
                if (picture.width, picture.height) not in ((0, 0), size, size[::-1]):
                    stated = f'{picture.width} x {picture.height} stated, {size[0]} x {size[1]} found'
                    found.problems.append(Problem('another size than the annotations state', picture.path, stated))
                    changed.add(part)
                    size = None
                elif (picture.width, picture.height) != size[::-1]:
                    picture.width, picture.height = size
                files[digest].append((part, picture.path))
                picture.same_as = files[digest][0][1]
            if size is None:
                picture.width = picture.height = 0
            elif check_things(picture, found.problems):
                changed.add(part)
            if progress:
                progress.update()
    for part, every in found.parts.items():
        found.parts[part] = [picture for picture in every if picture.width]
    for same in files.values():
        if len(same) > 1:
            parts = sorted({part for part, _ in same})
            kind = f'the same picture in {" and in ".join(parts)}' if len(parts) > 1 else 'the same picture twice'
            found.problems.append(Problem(kind, same[0][1], ', '.join(path for _, path in same[1:4])))
    return changed


def _look(what: tuple[Picture, bool]) -> tuple[tuple[int, int] | None, bytes, list[Problem]]:
    """(width, height) upright or None, a digest of the file, problems."""
    picture, decode = what
    path = picture.path
    try:
        with open(path, 'rb') as file:
            digest = hashlib.blake2b(file.read(), digest_size=12).digest()
        if decode:
            examined = images.examine(path)
            (height, width), notes = examined.shape, examined.unusual
            problems = [Problem(f'image {note}', path) for note in notes]
        else:
            width, height, orientation = image_size(path)
            width, height = (height, width) if orientation >= 5 else (width, height)
            problems = []
        if picture.label_map is not None:
            other = image_size(picture.label_map)[:2]
            if other not in ((width, height), (height, width)):
                detail = f'{other[0]} x {other[1]}, its image {width} x {height}'
                kind = 'label map of another size than its image, left out'
                return None, digest, [*problems, Problem(kind, picture.label_map, detail)]
        return (width, height), digest, problems
    except (DataError, OSError) as error:
        return None, b'', [Problem('image cannot be read', path, str(error).removeprefix(f'{path}: '))]


def check_things(picture: Picture, problems: list[Problem]) -> bool:
    """Cuts boxes to the picture and drops those without area and those that are there twice; says so in `problems`.

    Returns:
        whether anything changed.
    """
    kept, seen, changed = [], set(), False
    for number, thing in enumerate(picture.things, start=1):
        x1, y1, x2, y2 = thing.box
        text = f'object {number}, box {x1:g}, {y1:g}, {x2:g}, {y2:g}'
        cut = max(x1, 0.0), max(y1, 0.0), min(x2, float(picture.width)), min(y2, float(picture.height))
        key = thing.label, thing.box, str(thing.mask)
        if x2 <= x1 or y2 <= y1:
            problems.append(Problem('box without area, left out', picture.path, text))
        elif cut[2] <= cut[0] or cut[3] <= cut[1]:
            problems.append(Problem('box outside its picture, left out', picture.path, text))
        elif key in seen:
            problems.append(Problem('object that is there twice, one left out', picture.path, text))
        else:
            seen.add(key)
            kept.append(thing)
            if max(abs(a - b) for a, b in zip(cut, thing.box, strict=True)) > SLACK:
                of = f'{text}, of {picture.width} x {picture.height} pixels'
                problems.append(Problem('box that leaves its picture, cut off', picture.path, of))
                changed = True
            thing.box = cut
    changed |= len(kept) < len(picture.things)
    picture.things = kept
    return changed


def split(found: Found, fraction: float = VALIDATION) -> None:
    """Makes 'train' and 'val' of what has one part alone: by a hash of the file name, so that a picture stays in its
    part when others come or go. Data without a validation part give a part of their training."""
    if 'all' in found.parts:
        found.parts['train'] = found.parts.pop('all')
        if 'all' in found.folders:
            found.folders['train'] = found.folders.pop('all')
    if 'val' not in found.parts and 'train' in found.parts:
        pictures = found.parts['train']
        ranks = {picture.path: _rank(picture.same_as or picture.path) for picture in pictures}  # copies stay together
        ranked = sorted(pictures, key=lambda picture: ranks[picture.path])
        count = sum(rank < fraction for rank in ranks.values())
        count = min(max(count, 1), len(pictures) - 1)
        chosen = {picture.path for picture in ranked[:count]}
        found.parts['train'] = [picture for picture in pictures if picture.path not in chosen]
        found.parts['val'] = [picture for picture in pictures if picture.path in chosen]
        if 'train' in found.folders:
            found.folders['val'] = found.folders['train']


def _rank(path: str) -> float:
    """A number from 0 to 1 that depends on the name of the file alone."""
    return int(hashlib.sha256(os.path.basename(path).encode()).hexdigest()[:8], 16) / 2**32


def to_coco(pictures: Iterable[Picture], classes: Sequence[str], root: str) -> dict:
    """The content of a COCO json; file names are relative to `root`, category ids count from 1."""
    content = dict(images=[], annotations=[], categories=[dict(id=i, name=name) for i, name in enumerate(classes, 1)])
    for number, picture in enumerate(pictures, start=1):
        name = os.path.relpath(picture.path, root)
        content['images'].append(dict(id=number, file_name=name, width=picture.width, height=picture.height))
        for thing in picture.things:
            x1, y1, x2, y2 = (round(float(value), 3) for value in thing.box)
            annotation = dict(
                id=len(content['annotations']) + 1,
                image_id=number,
                category_id=thing.label + 1,
                bbox=[x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)],
                area=area(thing, picture),
                iscrowd=int(thing.crowd),
            )
            if thing.mask is not None:
                annotation['segmentation'] = thing.mask
            content['annotations'].append(annotation)
    return content


def area(thing: Thing, picture: Picture) -> float:
    """Pixels of the mask, else of the box."""
    if thing.mask is None:
        return round(thing.sides[0] * thing.sides[1], 1)
    return float(coco_mask_of(thing, picture)['area'])


def coco_mask_of(thing: Thing, picture: Picture) -> dict:
    """The mask as run lengths, with its `area` in pixels."""
    from pycocotools import mask as coco_mask

    code = thing.mask
    if isinstance(code, list):
        code = coco_mask.merge(coco_mask.frPyObjects(code, picture.height, picture.width))
    elif isinstance(code['counts'], list):
        code = coco_mask.frPyObjects(code, *code['size'])
    return dict(code, area=int(coco_mask.area(code)))
