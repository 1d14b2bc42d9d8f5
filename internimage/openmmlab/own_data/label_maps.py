"""Finding folders of label maps, and what their values mean: indices, 0 and 255, colours, numbers of objects."""

import csv
import os
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

import numpy as np
from PIL import Image

from ..datasets.transforms import LOSSY_FORMATS
from .pictures import Found, Picture, Problem, Thing
from .readers import Files, _names, part_of

MAPS_READ = 500  # label maps of which the values are looked at
HINTS = re.compile(r'mask|label|annot|seg|gt|truth|target|palette', re.IGNORECASE)
MANY = 256  # colours or values above which a picture is no label map
RARE = 1e-4  # part of all pixels under which a colour that no list names is a blurred edge
VOID = {'void', 'ignore', 'ignored', 'unlabeled', 'unlabelled', 'unknown', 'undefined'}


def read_label_maps(files: Files, problems: list[Problem], classes=None, instances: bool = False) -> Found | None:
    """Images with label maps; with `instances` every value above 0 is an object, of one class."""
    pairs = _pairs(files)
    if not pairs:
        return None
    found = Found('', files.root, [], {}, problems)
    suffixes, map_suffixes = Counter(), Counter()
    for images, maps, suffix, matched in pairs:
        part = part_of(images, files.root)
        if part in found.folders and not instances:
            problems.append(
                Problem('a second folder of a part, left out', images, f'{part} is {found.folders[part][0]}')
            )
            continue
        found.folders[part] = images, maps
        here = [path for path in files.images if os.path.dirname(path) == images]
        for path in here:
            if path in matched:
                found.parts.setdefault(part, []).append(Picture(path, label_map=matched[path]))
            elif images != maps:
                problems.append(Problem('image without a label map, left out', path))
        taken = set(matched.values())
        without = [p for p in files.images if os.path.dirname(p) == maps and p not in taken and images != maps]
        problems += [Problem('label map without an image', path) for path in without]
        suffixes.update(os.path.splitext(path)[1] for path in matched)
        map_suffixes[suffix] += len(matched)
    found.image_suffix = suffixes.most_common(1)[0][0]
    found.label_map_suffix = map_suffixes.most_common(1)[0][0]
    if instances:
        return _as_instances(found, classes)
    _understand_values(found, files, classes)
    return found


def _pairs(files: Files) -> list[tuple[str, str, str, dict[str, str]]]:
    """(folder of images, folder of label maps, suffix of the label maps, {image: label map})."""
    folders = defaultdict(list)
    for path in files.images:
        folders[os.path.dirname(path)].append(path)
    labels = {folder for folder in folders if HINTS.search(os.path.relpath(folder, files.root))}
    labels = {
        folder
        for folder in labels
        if any(path.lower().endswith(('.png', '.bmp', '.tif', '.tiff', '.gif')) for path in folders[folder])
    }
    pairs = []
    for maps in sorted(labels):
        best = (0, 0, None)
        for images in sorted(folders.keys() - labels):
            matched, suffix = _match(folders[images], folders[maps])
            nearness = len(os.path.commonpath([images, maps])) + 1000 * (
                part_of(images, files.root) == part_of(maps, files.root)
            )
            if matched and (len(matched), nearness) > best[:2]:
                best = len(matched), nearness, (images, maps, suffix, matched)
        if best[2]:
            pairs.append(best[2])
    if pairs:
        return pairs
    for folder, paths in sorted(folders.items()):  # label maps beside the images, as NAME_mask.png
        maps = [
            path
            for path in paths
            if re.search(r'[_-](mask|label|labels|seg|gt|annot)s?\.(png|bmp|tiff?)$', path, re.IGNORECASE)
        ]
        if maps:
            matched, suffix = _match([path for path in paths if path not in maps], maps)
            if matched:
                pairs.append((folder, folder, suffix, matched))
    return pairs


def _match(images: list[str], maps: list[str]) -> tuple[dict[str, str], str]:
    """Label maps whose name is that of an image with one same ending, which is the most frequent one."""
    by_name = {os.path.basename(path): path for path in maps}
    names = sorted(by_name)
    stems = {Path(path).stem: path for path in images}
    endings = Counter()
    for stem in list(stems)[:50]:
        at = np.searchsorted(names, stem) if names else 0
        for name in takewhile(lambda name, stem=stem: name.startswith(stem), names[at:]):
            endings[name[len(stem) :]] += 1
    if not endings:
        return {}, '.png'
    ending = max(endings, key=lambda ending: (endings[ending], -len(ending)))
    return {path: by_name[stem + ending] for stem, path in stems.items() if stem + ending in by_name}, ending


def _values(path: str) -> tuple[str, np.ndarray, np.ndarray] | str:
    """('numbers' or 'colours', the values, their pixels), or what is wrong with the file."""
    try:
        with Image.open(path) as image:
            if image.format in LOSSY_FORMATS:
                return f'a label map as {image.format} has other values at every edge'
            pixels = np.array(image)
            if image.mode == 'P' and pixels.max(initial=0) > 250 and len(np.unique(pixels)) > MANY // 2:
                pixels = np.array(image.convert('RGB'))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f'cannot be read: {error}'
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if pixels.ndim == 3:
        pixels = pixels[..., : 3 if pixels.shape[2] >= 3 else 1]
        if pixels.shape[2] == 3 and (pixels != pixels[..., :1]).any():
            wide = pixels.astype(np.int32)
            return 'colours', *np.unique(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], return_counts=True)
        pixels = pixels[..., 0]
    if pixels.dtype.kind == 'f' and not np.array_equal(pixels, np.rint(pixels)):
        return 'fractions instead of class indices'
    return 'numbers', *np.unique(pixels.astype(np.int64), return_counts=True)


def _understand_values(found: Found, files: Files, classes: list[str] | None) -> None:
    pictures = list(found.pictures())
    chosen = pictures[:: max(1, -(-len(pictures) // MAPS_READ))]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda picture: _values(picture.label_map), chosen))
    holders, overall, total = defaultdict(list), Counter(), 0
    broken = set()
    for picture, result in zip(chosen, read, strict=True):
        if isinstance(result, str):
            found.problems.append(Problem('label map that cannot be used, left out', picture.label_map, result))
            broken.add(picture.path)
        elif len(result[1]) > MANY:
            found.problems.append(
                Problem(
                    'label map that cannot be used, left out',
                    picture.label_map,
                    f'{len(result[1])} {result[0]}: a photo?',
                )
            )
            broken.add(picture.path)
    kinds = Counter(result[0] for picture, result in zip(chosen, read, strict=True) if picture.path not in broken)
    if not kinds:
        return _drop(found, broken)
    colours = kinds['colours'] > 0  # a map of one gray colour among coloured ones is of gray
    for picture, result in zip(chosen, read, strict=True):
        if picture.path in broken:
            continue
        values = result[1] * 0x10101 if colours and result[0] == 'numbers' else result[1]
        total += int(result[2].sum())
        picture.pixels = Counter(dict(zip(values.tolist(), result[2].tolist(), strict=True)))
        overall.update(picture.pixels)
        for value in picture.pixels:
            holders[value].append(picture)
    named = _listed_values(files, found.problems)
    if colours:
        wrong = _colours(found, overall, holders, total, named, classes)
    else:
        wrong = _numbers(found, overall, holders, named, classes)
    _drop(found, broken | wrong)
    meaning = {value: index for index, value in enumerate(_codes(found.label_values))} if found.label_values else None
    for picture in found.pictures():
        indices = {value: meaning.get(value, -1) if meaning else value for value in picture.pixels}
        counted = {index: picture.pixels[value] for value, index in indices.items() if 0 <= index < len(found.classes)}
        picture.pixels = Counter(counted)


def _codes(values: list) -> list[int]:
    return [value if isinstance(value, int) else value[0] << 16 | value[1] << 8 | value[2] for value in values]


def _drop(found: Found, paths: set[str]) -> None:
    for part, pictures in found.parts.items():
        found.parts[part] = [picture for picture in pictures if picture.path not in paths]


def _numbers(found: Found, counts: Counter, holders: dict, named: dict, classes: list[str] | None) -> set[str]:
    """Sets classes and values for label maps of numbers; returns the images whose label maps cannot be used."""
    values = sorted(counts)
    names = list(classes) if classes else None
    wrong: set[str] = set()
    if names is None and named and all(isinstance(value, int) for value in named):
        count = max(named) + 1
        names = [named.get(value, f'class_{value}') for value in range(count)]
    if names is not None and len(names) == 2 and values[0] == 0 and values[-1] > 1 and len(values) == 2:
        found.format, found.classes, found.label_values = f'label maps of 0 and {values[-1]}', names, values
        return wrong
    if names is None and len(values) == 2 and values[0] == 0 and values[1] in (1, 255):
        names = ['background', 'foreground']
        found.format, found.classes = f'label maps of 0 and {values[1]}', names
        found.label_values = values if values[1] != 1 else []
        found.problems.append(Problem('names of classes are not known: edit `classes`', found.root, ', '.join(names)))
        return wrong
    found.format = 'label maps of class indices'
    if names is None:
        high = [value for value in values if value != 255]
        if high and high != list(range(len(high))) and max(high) > 2 * len(high):
            found.label_values = high
            names = [f'value_{value}' for value in high]
            if 255 in values:
                found.ignored_values = [255]
        else:
            names = [f'class_{value}' for value in range(max(high, default=0) + 1)]
        found.problems.append(
            Problem('names of classes are not known: edit `classes`', found.root, f'{len(names)} numbered ones')
        )
        found.classes = names
        return wrong
    found.classes = names
    beyond = [value for value in values if value >= len(names)]
    if beyond:
        # One value for all that is of no class, as void = 255, or the number after the last class.
        frequent = max(beyond, key=lambda value: (value in (255, len(names)), len(holders[value])))
        found.ignore_index = frequent
        for value in beyond:
            if value != frequent:
                for picture in holders[value]:
                    detail = f'{value}, but its classes are 0 to {len(names) - 1}, and {frequent} is ignored'
                    found.problems.append(
                        Problem('label map with a value of no class, left out', picture.label_map, detail)
                    )
                    wrong.add(picture.path)
        if frequent != 255:
            text = f'{len(holders[frequent])} label maps have it; `ignore_index` leaves it out'
            found.problems.append(Problem(f'value {frequent} is of no class: taken for void', found.root, text))
    return wrong


def _colours(
    found: Found, counts: Counter, holders: dict, total: int, named: dict, classes: list[str] | None
) -> set[str]:
    found.format = 'label maps of RGB colours'
    listed = {code: name for value, name in named.items() if not isinstance(value, int) for code in _codes([value])}
    void = [code for code, name in listed.items() if name.lower() in VOID]
    if listed:
        codes = [code for code in listed if code not in void]
        found.classes = [listed[code] for code in codes]
        unknown = [code for code in counts if code not in listed]
    else:
        codes = [code for code, count in counts.most_common() if count >= RARE * total or len(counts) <= 32]
        codes = sorted(codes)[: MANY - 1]
        unknown = [code for code in counts if code not in codes]
        if classes and len(classes) == len(codes) - 1 and 0 in codes:  # black is of no class
            codes.remove(0)
            void = [0]
        names = list(classes or ())
        if len(names) != len(codes):
            found.problems.append(
                Problem(
                    'names of classes are not known: edit `classes`',
                    found.root,
                    f'{len(codes)} colours, {len(names)} names',
                )
            )
            names = [f'colour_{_rgb(code)[0]}_{_rgb(code)[1]}_{_rgb(code)[2]}' for code in codes]
        found.classes = names
    found.label_values = [_rgb(code) for code in codes]
    found.ignored_values = [_rgb(code) for code in [*void, *unknown]]
    for code in unknown:
        for picture in holders[code]:
            found.problems.append(
                Problem('label map with a colour of no class, ignored there', picture.label_map, str(tuple(_rgb(code))))
            )
    return set()


def _rgb(code: int) -> list[int]:
    return [code >> 16, code >> 8 & 255, code & 255]


def _listed_values(files: Files, problems: list[Problem]) -> dict:
    """{number or (r, g, b): name} of a file that lists the classes: CVAT's labelmap.txt, Roboflow's _classes.csv,
    class_dict.csv, label_colors.txt, or one name a line."""
    for path in files.of('.csv', '.txt'):
        name = os.path.basename(path).lower()
        if not re.fullmatch(
            r'_?(class(es)?|class_dict|label_?map|label_?colou?rs|labels|codes|names)(_dict)?\.(csv|txt)', name
        ):
            continue
        text = Path(path).read_text(encoding='utf-8-sig', errors='replace')
        listed = _parse_list(text, name.endswith('.csv'))
        if listed:
            return listed
        problems.append(Problem('list of classes that is not understood', path))
    return {}


def _parse_list(text: str, is_csv: bool) -> dict:
    listed = {}
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith('#')]
    rows = list(csv.reader(lines)) if is_csv else [re.split(r'[:,\t ]+(?=\d)|(?<=\d)[:,\t ]+', line) for line in lines]
    for row in rows:
        cells = [cell.strip(' :') for cell in row if cell.strip(' :')]
        numbers = [int(cell) for cell in cells if cell.isdigit()]
        words = [cell for cell in cells if not cell.isdigit()]
        if len(numbers) == 3 and words and max(numbers) <= 255:
            listed[tuple(numbers)] = words[0]
        elif len(numbers) == 1 and len(words) == 1 and is_csv:
            listed[numbers[0]] = words[0]
    if not listed and not is_csv:
        listed = dict(enumerate(lines))
    return listed


def _as_instances(found: Found, classes: list[str] | None) -> Found:
    """Every value above 0 (every colour but black) of a label map as an object of one class."""
    from pycocotools import mask as coco_mask

    found.format = 'instance maps'
    for picture in found.pictures():
        try:
            with Image.open(picture.label_map) as image:
                pixels = np.array(image)
        except (OSError, SyntaxError, ValueError) as error:
            found.problems.append(Problem('instance map that cannot be read', picture.label_map, str(error)))
            continue
        if pixels.ndim == 3:
            wide = pixels.astype(np.int64)
            pixels = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., min(2, wide.shape[2] - 1)]
        picture.height, picture.width = pixels.shape
        numbers = np.unique(pixels)
        if len(numbers) > 4 * MANY:
            found.problems.append(
                Problem('instance map that cannot be read', picture.label_map, f'{len(numbers)} values: a photo?')
            )
            continue
        for number in numbers[numbers > 0]:
            mask = pixels == number
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            box = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
            picture.things.append(Thing(0, box, dict(size=code['size'], counts=code['counts'].decode())))
    if classes and len(classes) > 1:
        found.problems.append(
            Problem('instance maps have one class: the first of --classes', found.root, ', '.join(classes))
        )
    found.classes = _names(classes, 1, found.problems, found.root)[:1]
    found.folders = {}
    return found
