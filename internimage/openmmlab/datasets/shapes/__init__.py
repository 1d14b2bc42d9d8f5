"""Generated scenes of overlapping, textured shapes for detection, instance and semantic segmentation.

A small data set that needs no download. As with things in photos, outline and colour both hint at the class of a
shape; textures say nothing, and shapes occlude each other. ``ShapesDataset`` (mmdet) and ``ShapesSegDataset`` (mmseg)
write it on first use; by hand it is ``python -m internimage.openmmlab.datasets.shapes ROOT``.
"""

import json
import os
import tempfile
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS as MMDET_DATASETS
from mmengine.utils import track_iter_progress
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS as MMSEG_DATASETS
from pycocotools import mask as rle

CLASSES = ('circle', 'square', 'triangle', 'star', 'ring')
PALETTE = [(230, 60, 60), (60, 120, 240), (250, 190, 40), (60, 190, 90), (200, 80, 220)]  # RGB

FORMAT_VERSION = 1  # to be raised when the same arguments no longer give the same files
MIN_SIDE = 96  # pixels of an image side: room for six shapes
DIAMETER = (30, 72)  # pixels, of the circle around a shape
MIN_VISIBLE_AREA = 60  # pixels
MIN_VISIBLE_FRACTION = 0.5  # of the whole shape, what lies outside the image included
TYPICAL_COLOUR = 0.8  # of a shape's mean colour, how much is its class's; the rest is random
MIN_CONTRAST = 60  # distance between the mean colours of a shape and of what it covers


def generate_shapes(
    root: str | os.PathLike, num_train: int = 300, num_val: int = 80, size: tuple[int, int] = (160, 128), seed: int = 0
) -> None:
    """Writes the data set to the folder ``root``, all of it or nothing; the same arguments give the same bytes.

    - ``images/{train,val}/000001.png``: colour images.
    - ``annotations/instances_{train,val}.json``: COCO, categories 1..5. Box ``[x, y, width, height]``, area and RLE
      mask are those of the visible part of a shape, in pixels.
    - ``masks/{train,val}/000001.png``: (height, width) class indices, 0 for background, else the category on top.
    - ``generated.json``: these arguments. Where ``root`` holds them already nothing is done.

    Args:
        size: (width, height) of the images in pixels, each at least 96.
        seed: scene k of a split follows from ``seed``, ``size`` and k alone: a larger set begins with the smaller one.

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: ``root`` exists and holds something else. It is left as it is.
    """
    width, height = size
    if min(num_train, num_val) < 1:
        raise ValueError(f'num_train and num_val must be at least 1, got {num_train} and {num_val}')
    if min(width, height) < MIN_SIDE:
        raise ValueError(f'size must be at least {MIN_SIDE} x {MIN_SIDE} pixels, got {width} x {height}')
    if seed < 0:
        raise ValueError(f'seed must not be negative, got {seed}')
    arguments = dict(
        format_version=FORMAT_VERSION, num_train=num_train, num_val=num_val, size=[width, height], seed=seed
    )
    root = Path(root)
    if os.path.lexists(root):
        return _check_generated(root, arguments)

    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as folder:
        part = Path(folder, root.name)
        part.mkdir()
        print(f'generating {num_train + num_val} images of shapes in {root}')
        _write_splits(part, dict(train=num_train, val=num_val), (width, height), seed)
        (part / 'generated.json').write_text(json.dumps(arguments))
        try:
            part.rename(root)
        except OSError:
            if not os.path.lexists(root):
                raise
            _check_generated(root, arguments)  # another process was faster: its files stay, these go


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """One scene of 3 to 6 shapes, each drawn over the earlier ones.

    Returns:
        The image, (height, width, 3) uint8 BGR; the instance map, (height, width) uint8, 0 for background and i + 1
        where shape i is on top; the category 1..5 of each shape. At least 50 % and 60 pixels of a shape are visible.
    """
    width, height = size
    image = _texture(rng, size, period=rng.uniform(12, 48), colour=rng.uniform(60, 200) + rng.normal(0, 32, 3))
    instances = np.zeros((height, width), np.uint8)
    categories, whole_areas = [], []
    angle = rng.uniform(0, 2 * np.pi)
    light = np.array([np.cos(angle), np.sin(angle)])
    num_shapes = rng.integers(3, 7)
    while len(categories) < num_shapes:
        category = int(rng.integers(len(CLASSES))) + 1
        radius = np.exp(rng.uniform(*np.log(DIAMETER))) / 2
        centre = rng.uniform(0.5 * radius, np.array(size) - 0.5 * radius)
        polygon = centre + radius * _rotate(_outline(CLASSES[category - 1]), rng.uniform(0, 2 * np.pi))
        coverage = _coverage(polygon, size)
        covered = coverage >= 0.5

        candidate = np.where(covered, len(categories) + 1, instances).astype(np.uint8)
        candidate_areas = [*whole_areas, cv2.contourArea(polygon.astype(np.float32))]
        visible = np.bincount(candidate.ravel(), minlength=len(candidate_areas) + 1)[1:]
        if np.any(visible < np.maximum(MIN_VISIBLE_AREA, MIN_VISIBLE_FRACTION * np.array(candidate_areas))):
            continue
        hue = np.array(PALETTE[category - 1][::-1])
        colour = TYPICAL_COLOUR * hue + (1 - TYPICAL_COLOUR) * rng.uniform(0, 255, 3)
        fill = _texture(rng, size, period=rng.uniform(6, 20), colour=colour)
        if np.linalg.norm(fill[covered].mean(axis=0) - image[covered].mean(axis=0)) < MIN_CONTRAST:
            continue  # hardly to be told from what is behind it

        x, y = _pixels(size)
        towards_light = ((x - centre[0]) * light[0] + (y - centre[1]) * light[1]) / radius
        fill *= 1 + 0.3 * towards_light[..., None]
        shadow = cv2.GaussianBlur(_coverage(polygon - 2.5 * light, size), (0, 0), 2.0)
        image *= 1 - 0.5 * shadow[..., None]
        image += coverage[..., None] * (fill - image)
        instances, whole_areas = candidate, candidate_areas
        categories.append(category)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.8))
    image += rng.normal(0, rng.uniform(2, 7), image.shape)
    return np.clip(image.round(), 0, 255).astype(np.uint8), instances, categories


@MMDET_DATASETS.register_module()
class ShapesDataset(CocoDataset):
    """The boxes and masks for mmdet, generated with the default arguments where ``data_root`` does not exist."""

    METAINFO = dict(classes=CLASSES, palette=PALETTE)

    def __init__(self, *args, data_root: str, **kwargs) -> None:
        _generate_on_first_use(data_root)
        super().__init__(*args, data_root=data_root, **kwargs)


@MMSEG_DATASETS.register_module()
class ShapesSegDataset(BaseSegDataset):
    """The index masks for mmseg, generated with the default arguments where ``data_root`` does not exist."""

    METAINFO = dict(classes=('background', *CLASSES), palette=[(0, 0, 0), *PALETTE])

    def __init__(self, *args, data_root: str, img_suffix: str = '.png', **kwargs) -> None:
        _generate_on_first_use(data_root)
        super().__init__(*args, data_root=data_root, img_suffix=img_suffix, **kwargs)


def _generate_on_first_use(data_root: str) -> None:
    # A data set of other arguments, made by hand, is as good.
    if not os.path.lexists(data_root):
        generate_shapes(data_root)


def _check_generated(root: Path, arguments: dict) -> None:
    try:
        found = json.loads((root / 'generated.json').read_text())
    except (OSError, ValueError):
        raise FileExistsError(
            f'root must be a new folder or one that generate_shapes wrote, got {root}, which exists and has no '
            'readable generated.json: choose another root'
        ) from None
    if found != arguments:
        raise FileExistsError(
            f'root must hold what these arguments give, {arguments}, but {root} was generated with {found}: choose '
            'another root, or delete this one'
        )


def _write_splits(root: Path, splits: dict[str, int], size: tuple[int, int], seed: int) -> None:
    scenes = [(index, split, image) for index, split in enumerate(splits) for image in range(splits[split])]
    content = {split: dict(images=[], annotations=[]) for split in splits}
    for split_index, split, image_index in track_iter_progress(scenes):
        rng = np.random.default_rng([seed, split_index, image_index])
        image, instances, categories = draw_scene(rng, size)
        image_id = image_index + 1
        name = f'{image_id:06d}.png'
        mmcv.imwrite(image, str(root / 'images' / split / name))
        mmcv.imwrite(np.array([0, *categories], np.uint8)[instances], str(root / 'masks' / split / name))

        images, annotations = content[split].values()
        images.append(dict(id=image_id, file_name=name, width=size[0], height=size[1]))
        for instance, category in enumerate(categories, start=1):
            mask = rle.encode(np.asfortranarray(instances == instance, np.uint8))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=category,
                    bbox=rle.toBbox(mask).tolist(),
                    area=int(rle.area(mask)),
                    iscrowd=0,
                    segmentation=dict(size=mask['size'], counts=mask['counts'].decode()),
                )
            )
    (root / 'annotations').mkdir()
    for split in splits:
        coco = dict(
            info=dict(description=f'Generated shapes, {split}', version=str(FORMAT_VERSION)),
            licenses=[],
            categories=[dict(id=id, name=name, supercategory='shape') for id, name in enumerate(CLASSES, start=1)],
            **content[split],
        )
        (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(coco))


def _outline(name: str) -> np.ndarray:
    """The polygon, (points, 2), of a class inside the unit circle."""
    if name == 'star':
        return _regular(10) * np.resize([1, 0.45], 10)[:, None]
    if name == 'ring':  # around, across, and back inside: one polygon with a hole
        circle = np.concatenate([_regular(64), _regular(1)])
        return np.concatenate([circle, 0.55 * circle[::-1]])
    return _regular(dict(circle=64, square=4, triangle=3)[name])


def _regular(corners: int) -> np.ndarray:
    angles = np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _coverage(polygon: np.ndarray, size: tuple[int, int], subpixels: int = 4) -> np.ndarray:
    """The share of each pixel, (height, width) float32, that lies inside; pixel (0, 0) spans 0..1 in x and y."""
    width, height = size
    fine = np.zeros((height * subpixels, width * subpixels), np.float32)
    cv2.fillPoly(fine, [np.rint(polygon * subpixels - 0.5).astype(np.int32)], 1.0)
    return cv2.resize(fine, size, interpolation=cv2.INTER_AREA)


def _pixels(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixel centres, broadcasting to (height, width)."""
    width, height = size
    return np.arange(width)[None] + 0.5, np.arange(height)[:, None] + 0.5


def _texture(rng: np.random.Generator, size: tuple[int, int], period: float, colour: np.ndarray) -> np.ndarray:
    """A random pattern around a colour (BGR), (height, width, 3) float32 around 0..255; `period` in pixels."""
    x, y = _pixels(size)
    angle = rng.uniform(0, 2 * np.pi)
    phase_u, phase_v = rng.uniform(0, 2 * np.pi, 2)
    u = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period
    v = (y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period
    kind = rng.choice(['noise', 'stripes', 'checker', 'gradient'])
    if kind == 'noise':
        pattern = _smooth_noise(rng, size, period)
    elif kind == 'stripes':
        pattern = np.clip(2 * np.sin(u + phase_u), -1, 1)
    elif kind == 'checker':
        pattern = np.clip(4 * np.sin(u + phase_u) * np.sin(v + phase_v), -1, 1)
    else:
        pattern = 1.5 * np.sin(u / 8 + phase_u)
    pattern = 0.8 * pattern + 0.4 * _smooth_noise(rng, size, 8)
    change = rng.normal(0, 12, 3)
    return (colour + pattern[..., None] * change).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, size: tuple[int, int], period: float) -> np.ndarray:
    """Noise in -1..1, roughly, of three scales from `period` pixels down."""
    width, height = size
    noise = np.zeros((height, width))
    for scale in (1, 2, 4):
        grid = rng.uniform(-1, 1, (int(height * scale / period) + 2, int(width * scale / period) + 2))
        noise += cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC) / scale
    return noise
