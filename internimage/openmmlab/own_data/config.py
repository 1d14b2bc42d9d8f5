"""The config for own data: what the numbers of the data suggest, each line with its reason."""

import json
import math
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..cfg_options import ConfigError
from ..configuration import find_config, load_config
from ..nodes import config_folder, dicts
from ..settings import SETTINGS
from .pictures import Found

# Short names of models. Any other config of the package, or of the user, goes too.
MODELS = {
    'faster_rcnn_t': 'coco/faster_rcnn_internimage_t_fpn_1x_coco',
    'mask_rcnn_t': 'coco/mask_rcnn_internimage_t_fpn_1x_coco',
    'mask_rcnn_s': 'coco/mask_rcnn_internimage_s_fpn_1x_coco',
    'mask_rcnn_b': 'coco/mask_rcnn_internimage_b_fpn_1x_coco',
    'cascade_mask_rcnn_t': 'coco/cascade_mask_rcnn_internimage_t_fpn_1x_coco',
    'cascade_mask_rcnn_l': 'coco/cascade_internimage_l_fpn_1x_coco',
    'cascade_mask_rcnn_xl': 'coco/cascade_internimage_xl_fpn_1x_coco',
    'dino_t': 'coco/dino_4scale_internimage_t_1x_coco_layer_wise_lr',
    'dino_l': 'coco/dino_4scale_internimage_l_1x_coco_layer_wise_lr',
    'upernet_t': 'ade20k/upernet_internimage_t_512_160k_ade20k',
    'upernet_s': 'ade20k/upernet_internimage_s_512_160k_ade20k',
    'upernet_b': 'ade20k/upernet_internimage_b_512_160k_ade20k',
    'upernet_l': 'ade20k/upernet_internimage_l_640_160k_ade20k',
    'upernet_xl': 'ade20k/upernet_internimage_xl_640_160k_ade20k',
    'faster_rcnn_small': 'demo/faster_rcnn_internimage_small_coco',
    'mask_rcnn_small': 'demo/mask_rcnn_internimage_small_coco',
    'upernet_small': 'demo/upernet_internimage_small_ade20k',
}
DEFAULT_MODELS = {'det': 'dino_t', 'inst': 'mask_rcnn_t', 'sem': 'upernet_t'}

LARGEST = (1333, 800)  # longest and shortest side of COCO's training
SMALLEST_OBJECT = 16  # pixels that a tenth of the objects should not be under: four cells of the finest feature map
PIXELS_OF_BATCH = 2 * 1333 * 800  # what the official detectors train on at a time, on a GPU
PIXELS_OF_CROPS = 8 * 512 * 512
STEPS = 2000  # iterations in which a fine-tuning settles
EPOCHS = (12, 100)


class Line(NamedTuple):
    """`name = value  # why` in a config."""

    name: str
    value: object
    why: str = ''


class Numbers(NamedTuple):
    """What the config is made of. Sizes in pixels. `sides`: sqrt(width * height) of every object; `aspects`: height
    over width; `most`: objects in the fullest picture."""

    size: tuple[int, int]
    sides: np.ndarray
    aspects: np.ndarray
    most: int


def numbers(found: Found) -> Numbers:
    """The numbers of the data, of all parts."""
    pictures = list(found.pictures())
    size = tuple(int(np.median([getattr(picture, key) for picture in pictures])) for key in ('width', 'height'))
    sides = np.array([thing.sides for picture in pictures for thing in picture.things]).reshape(-1, 2)
    counts = [sum(not thing.crowd for thing in picture.things) for picture in pictures]
    return Numbers(size, np.sqrt(sides.prod(1)), sides[:, 1] / np.maximum(sides[:, 0], 1e-6), max(counts, default=0))


@cache
def official_checkpoint(config: str) -> str | None:
    """The address of the official trained model of a config of the package, 'folder/name'."""
    published = json.loads((config_folder() / 'published_results.json').read_text())['checkpoints']
    file = published['files'].get(config)
    return published['address'] + file if file else None


def choose_base(task: str, model: str | None, has_masks: bool) -> str:
    """The config of the package ('folder/name'), or the path of the user's, that the new one is based on.

    Raises:
        ConfigError: no such model, or one of another task.
    """
    name = model or DEFAULT_MODELS[task]
    base = MODELS.get(name)
    if base is None:
        try:
            path = Path(find_config(name)).resolve()
        except ConfigError as error:
            raise ConfigError(f'--model {name}: {error}; or one of {", ".join(MODELS)}') from error
        inside = config_folder().resolve() in path.parents
        base = path.relative_to(config_folder().resolve()).with_suffix('').as_posix() if inside else str(path)
    cfg = load_config(base)
    segments = 'decode_head' in cfg.model
    if segments != (task == 'sem'):
        fit = ', '.join(each for each in MODELS if each.startswith('upernet') == (task == 'sem'))
        raise ConfigError(
            f'--model {name} is {"a segmentor" if segments else "a detector"}, for --task {task}: take one of {fit}'
        )
    if task != 'sem' and not has_masks and any(node.get('mask_head') for node in dicts(cfg.model)):
        raise ConfigError(f'--model {name} needs masks, and these data have boxes alone: take faster_rcnn_t or dino_t')
    return base


def image_scale(known: Numbers) -> tuple[tuple[int, int], str]:
    """Size to which images are resized, and why."""
    long, short = max(known.size), min(known.size)
    largest = min(LARGEST[0] / long, LARGEST[1] / short)
    factor, why = min(1.0, largest), f'the median of the images, {known.size[0]} x {known.size[1]}'
    if factor < 1:
        why += f', made to fit into {LARGEST[0]} x {LARGEST[1]}'
    if len(known.sides):
        small = float(np.quantile(known.sides, 0.1))
        wanted = min(SMALLEST_OBJECT / small, 2.0, largest)
        if wanted > factor:
            factor, why = wanted, f'{why}, enlarged for small objects'
        why += f'; a tenth of the objects are under {small * factor:.0f} pixels there'
    return (_multiple(long * factor), _multiple(short * factor)), why


def _multiple(side: float, of: int = 8) -> int:
    return max(of * round(side / of), 32)


def lines_for(found: Found, task: str, base: str, out: Path, files: dict[str, str]) -> list[Line]:
    """The lines of the config. `files`: annotation files or lists of names by part, where there are some."""
    cfg = load_config(base)
    known = numbers(found)
    count = len(found.parts['train'])
    scale, why = image_scale(known)
    checkpoint = official_checkpoint(base)
    lines = [Line('classes', tuple(found.classes), 'in the order of their indices: sets every head and data set')]
    lines.append(Line('data_root', found.root + os.sep))
    lines += _files(found, task, files)
    pretrained = checkpoint or any(node.get('init_cfg') for node in dicts(cfg.model.backbone))
    lines.append(Line('image_scale', scale, why))
    if task == 'sem':
        crop = tuple(min(32 * max(round(side / 32), 1), 512) for side in scale[::-1])
        lines.append(Line('crop_size', crop, 'height and width of the parts that are trained on: the image, up to 512'))
        pixels, budget = crop[0] * crop[1], PIXELS_OF_CROPS
    else:
        pixels, budget = scale[0] * scale[1], PIXELS_OF_BATCH
        if SETTINGS['anchor_scales'].get(cfg):
            lines += _anchors(known, scale)
    batch = int(min(max(budget // pixels, 2), 16, max(2, count // 8)))
    of = 'crops of 512 x 512, 8 of which' if task == 'sem' else 'images of 1333 x 800, 2 of which'
    lines.append(
        Line('batch_size', batch, f'images on each GPU: the memory of {of} are a usual batch; halve it if it is short')
    )
    rate, base_batch = cfg.optim_wrapper.optimizer.lr, (cfg.get('auto_scale_lr') or {}).get('base_batch_size', 16)
    if pretrained:
        new = float(f'{rate * batch / base_batch:.1g}')
        lines.append(Line('lr', new, f'the official {rate:g} is for {base_batch} images: in proportion, for one GPU'))
    lines += _length(cfg, count, batch)
    if task != 'sem' and known.most > 100 and (cfg.model.get('test_cfg') or {}).get('rcnn'):
        most = 100 * math.ceil(known.most * 1.2 / 100)
        lines.append(
            Line(
                'model', f'dict(test_cfg=dict(rcnn=dict(max_per_img={most})))', f'there are up to {known.most} objects'
            )
        )
    if checkpoint:
        kind = 'segmentor' if task == 'sem' else 'detector'
        lines.append(Line('load_from', checkpoint, f'the official {kind}; --load-from FILE takes another'))
    return lines


def _files(found: Found, task: str, files: dict[str, str]) -> list[Line]:
    lines = [Line(f'{part}_ann_file', path) for part, path in files.items()]
    if task != 'sem':
        folders = {part: _common_folder(found, part) for part in files}
        return lines + [Line(f'{part}_images', folder) for part, folder in folders.items()]
    for part in found.parts:
        images, maps = (os.path.relpath(folder, found.root) for folder in found.folders[part])
        lines += [Line(f'{part}_images', images), Line(f'{part}_label_maps', maps)]
    lines.append(
        Line(
            'label_values',
            found.label_values or [],
            'of the classes in the files' if found.label_values else 'the indices',
        )
    )
    if found.ignored_values:
        lines.append(Line('ignored_values', found.ignored_values, 'of no class'))
    if found.ignore_index != 255:
        lines.append(Line('ignore_index', found.ignore_index, 'void in the files: no class'))
    if found.image_suffix.lower() != '.jpg':
        lines.append(Line('image_suffix', found.image_suffix))
    if found.label_map_suffix != '.png':
        lines.append(Line('label_map_suffix', found.label_map_suffix))
    return lines


def _common_folder(found: Found, part: str) -> str:
    """What comes before the file names in an annotation file: nothing in one of ours, where they are relative to the
    root."""
    path = found.annotation_files.get(part)
    if path is None:
        return ''
    names = {
        os.path.basename(image['file_name']): image['file_name']
        for image in json.loads(Path(path).read_text(encoding='utf-8-sig'))['images']
    }
    picture = found.parts[part][0].path
    name = names[os.path.basename(picture)].replace('\\', '/')
    return os.path.relpath(picture.removesuffix(name), found.root)


def _anchors(known: Numbers, scale: tuple[int, int]) -> list[Line]:
    """Faster R-CNN's anchors are one scale times the strides 4, 8, 16, 32, 64; more would not fit an official
    checkpoint."""
    factor = min(scale[0] / max(known.size), scale[1] / min(known.size))
    low, high = np.quantile(known.sides * factor, [0.1, 0.9])
    best = 4 if low < 24 and high < 400 else 8
    text = f'{4 * best} to {64 * best} pixels; eight of ten objects have {low:.0f} to {high:.0f}'
    lines = [Line('anchor_scales', [best], text)]
    narrow, wide = np.quantile(known.aspects, [0.1, 0.9])
    if narrow < 0.4 or wide > 2.5:
        ratios = sorted({round(float(min(narrow, 0.5)), 2), 1.0, round(float(max(wide, 2.0)), 2)})
        lines.append(
            Line(
                'anchor_ratios', ratios, f'height over width: a tenth are under {narrow:.2f}, a tenth above {wide:.2f}'
            )
        )
    return lines


def _length(cfg, count: int, batch: int) -> list[Line]:
    steps = max(1, math.ceil(count / batch))
    if cfg.train_cfg.get('max_epochs'):
        epochs = int(min(max(math.ceil(STEPS / steps), EPOCHS[0]), EPOCHS[1]))
        total = epochs * steps
        lines = [Line('max_epochs', epochs, f'{count} images are {steps} steps: {total} in all')]
        lines.append(Line('val_interval', max(1, epochs // 12)))
    else:
        total = int(min(max(40 * steps, STEPS), 20000))
        lines = [Line('max_iters', total, f'{count} images, each about {round(total * batch / count)} times')]
        lines.append(Line('val_interval', max(1, total // 10)))
    return [*lines, Line('warmup_iters', min(SETTINGS['warmup_iters'].get(cfg) or 500, max(1, total // 10)))]


def config_text(lines: list[Line], base: str, comment: str) -> str:
    """The file. The base is named by the package where it is one of its configs."""
    base = base if os.path.isabs(base) else f'internimage::{base}'
    parts = [f'# {comment}', f'_base_ = {base!r}', '']
    for line in lines:
        value = line.value if line.name == 'model' else repr(line.value)
        text = f'{line.name} = {value}' + (f'  # {line.why}' if line.why else '')
        if len(text) > 120 and line.why:
            text = f'# {line.why[0].upper()}{line.why[1:]}.\n{line.name} = {value}'
        parts.append(text)
    return '\n'.join(parts) + '\n'


def class_counts(found: Found) -> dict[str, Counter]:
    """{part: {label: objects, or pixels of label maps}}; crowds are not counted."""
    if found.is_segmentation:
        return {
            part: sum((picture.pixels for picture in pictures), Counter()) for part, pictures in found.parts.items()
        }
    return {
        part: Counter(thing.label for picture in pictures for thing in picture.things if not thing.crowd)
        for part, pictures in found.parts.items()
    }
