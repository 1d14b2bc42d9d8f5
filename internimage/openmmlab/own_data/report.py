"""The report of `internimage new`: counts, sizes, pictures with their annotations, every problem, as one HTML page."""

import os
from collections import Counter, defaultdict

import cv2
import numpy as np
from mmengine.structures import InstanceData
from PIL import Image

from .. import pages
from ..datasets.label_maps import label_table
from ..datasets.transforms import read_labels
from ..drawing import draw_instances, draw_label_map, with_palette
from ..images import read_image
from .config import class_counts, numbers
from .pictures import Found, Picture, coco_mask_of

SAMPLES = 12
LISTED = 200  # problems of a kind
BODY = """
<p class="quiet">{{ found.format }} in {{ found.root }}, read for {{ task_name }}.</p>
{{ table(['part', 'pictures', unit], parts) }}
<h2>Config</h2>
<p>{{ config_path }}</p><pre>{{ config }}</pre>
<p>What to run:</p><pre>{{ commands }}</pre>
<h2>Problems</h2>
{% if problems %}{% for kind, count, items in problems %}
<details{% if loop.length < 4 %} open{% endif %}><summary><span class="bad">{{ count }}</span> {{ kind }}</summary>
{{ table(['file', 'what'], items) }}
{% if count > items | length %}<p class="quiet">and {{ count - items | length }} more</p>{% endif %}
</details>{% endfor %}
{% else %}<p>None.</p>{% endif %}
<h2>Classes</h2>
{{ table(class_columns, class_rows) }}
{{ class_figure }}
<h2>Sizes</h2>
{% for text in size_texts %}<p>{{ text }}</p>{% endfor %}
{{ size_figure }}
<h2>Pictures</h2>
<p class="quiet">With their annotations as they will be used; those with rare classes first.</p>
{{ gallery(samples) }}
"""
TASKS = {'det': 'detection', 'inst': 'instance segmentation', 'sem': 'semantic segmentation'}


def report(found: Found, task: str, config: str, config_path: str, commands: str, scale: tuple[int, int]) -> str:
    """The page. `scale`: size of the images for the network, (longest, shortest side) in pixels."""
    counts = class_counts(found)
    order = [part for part in ('train', 'val', 'test') if part in found.parts]
    unit = 'labelled pixels' if found.is_segmentation else 'objects'
    parts = [(part, len(found.parts[part]), _digits(sum(counts[part].values()))) for part in order]
    return pages.render(
        BODY,
        f'Data: {os.path.basename(found.root.rstrip(os.sep))}',
        found=found,
        task_name=TASKS[task],
        unit=unit,
        parts=parts,
        config=config,
        config_path=config_path,
        commands=commands,
        problems=_problems(found),
        class_columns=[
            'index',
            'class',
            *(f'{unit}, {part}' for part in order),
            *([] if found.is_segmentation else ['pictures']),
        ],
        class_rows=_class_rows(found, counts, order),
        class_figure=_class_figure(found, counts, order, unit),
        size_texts=_size_texts(found, scale),
        size_figure=_size_figure(found, scale),
        samples=_samples(found, counts),
    )


def _digits(value: int) -> str:
    return f'{value:,}'.replace(',', ' ')


def _problems(found: Found) -> list[tuple[str, int, list]]:
    kinds = defaultdict(list)
    for problem in found.problems:
        kinds[problem.kind].append(
            (
                os.path.relpath(problem.where, found.root) if os.path.isabs(problem.where) else problem.where,
                problem.detail,
            )
        )
    return [(kind, len(items), items[:LISTED]) for kind, items in sorted(kinds.items(), key=lambda each: -len(each[1]))]


def _class_rows(found: Found, counts: dict, order: list[str]) -> list[tuple]:
    holders = Counter()
    for picture in found.pictures():
        holders.update({thing.label for thing in picture.things})
    rows = []
    for label, name in enumerate(found.classes):
        rows.append(
            (
                label,
                name,
                *(_digits(counts[part][label]) for part in order),
                *([] if found.is_segmentation else [holders[label]]),
            )
        )
    return rows


def _class_figure(found: Found, counts: dict, order: list[str], unit: str):
    shown = sorted(range(len(found.classes)), key=lambda label: -sum(counts[part][label] for part in order))[:40]
    drawn, field = pages.axes(8, 0.6 + 0.3 * len(shown))
    places, thick, values = np.arange(len(shown)), 0.8 / len(order), np.zeros(1)
    for index, part in enumerate(order):
        values = np.append(values, [counts[part][label] for label in shown])
        field.barh(places + index * thick, values[-len(shown) :], thick, label=part)
    field.set_yticks(places + (len(order) - 1) / 2 * thick, [found.classes[label] for label in shown])
    field.invert_yaxis()
    field.set_xlabel(unit if len(shown) == len(found.classes) else f'{unit}: the 40 most frequent classes')
    if values.max() > 100 * max(values[1:].min(), 1):
        field.set_xscale('symlog', linthresh=10)
    field.legend(frameon=False, loc='upper left', bbox_to_anchor=(1, 1))
    return pages.figure(drawn)


def _size_texts(found: Found, scale: tuple[int, int]) -> list[str]:
    known = numbers(found)
    sizes = Counter((picture.width, picture.height) for picture in found.pictures())
    most = ', '.join(f'{width} x {height} ({count})' for (width, height), count in sizes.most_common(3))
    texts = [f'Images: {len(sizes)} sizes, the most frequent {most}; for the network {scale[0]} x {scale[1]}.']
    if len(known.sides):
        low, middle, high = np.quantile(known.sides, [0.1, 0.5, 0.9])
        texts.append(
            f'Objects, as the square root of their width times height: median {middle:.0f} pixels, eight of ten from '
            f'{low:.0f} to {high:.0f}; up to {known.most} in a picture.'
        )
        factor = min(scale[0] / max(known.size), scale[1] / min(known.size))
        if low * factor < 10:
            texts.append(
                f'A tenth of the objects have less than {low * factor:.0f} pixels for the network: train on parts of '
                'the images (docs/recipes.md, small objects).'
            )
    return texts


def _size_figure(found: Found, scale: tuple[int, int]):
    known = numbers(found)
    columns = 3 if len(known.sides) else 1
    drawn, fields = pages.axes(3.4 * columns, 2.8, ncols=columns, squeeze=False)
    fields = fields[0]
    pictures = list(found.pictures())
    fields[0].scatter([each.width for each in pictures], [each.height for each in pictures], s=8, alpha=0.4)
    fields[0].set(xlabel='width of images, pixels', ylabel='height', xlim=(0, None), ylim=(0, None))
    if len(known.sides):
        factor = min(scale[0] / max(known.size), scale[1] / min(known.size))
        for values, label in ((known.sides, 'in the image'), (known.sides * factor, 'for the network')):
            if label == 'in the image' or abs(factor - 1) > 0.05:
                edges = np.geomspace(max(values.min(), 1), max(values.max(), 2), 30)
                fields[1].hist(values, edges, histtype='step', label=label)
        fields[1].set_xscale('log')
        fields[1].xaxis.set_minor_formatter('')
        fields[1].set(xlabel='size of objects, pixels', ylabel='objects')
        fields[1].legend(frameon=False, fontsize=8)
        fields[2].hist(np.clip(known.aspects, 0.1, 10), np.geomspace(0.1, 10, 31), histtype='step')
        fields[2].set(xscale='log', xlabel='height over width of objects')
    drawn.tight_layout()
    return pages.figure(drawn)


def _samples(found: Found, counts: dict) -> list[tuple]:
    """Pictures of every part, with those of the rarest classes first; their annotations drawn."""
    total = sum(counts.values(), Counter())
    meta = with_palette(dict(classes=found.classes, palette=_palette(found)))
    chosen: dict[str, tuple[str, Picture]] = {}
    pictures = [(part, picture) for part, every in found.parts.items() for picture in every]
    for label in sorted((label for label in total if total[label]), key=lambda label: total[label])[:4]:
        first = next(((p, each) for p, each in pictures if any(t.label == label for t in each.things)), None)
        if first:
            chosen[first[1].path] = first
    for part, every in found.parts.items():
        for index in np.unique(np.linspace(0, len(every) - 1, min(len(every), SAMPLES)).astype(int)):
            chosen.setdefault(every[index].path, (part, every[index]))
    first = list(chosen.values())
    step = max(1, len(first) // SAMPLES)
    shown = first[:4] + first[4::step] if len(first) > SAMPLES else first
    return [
        (pages.picture(annotated(found, picture, meta)), f'{part}: {os.path.relpath(picture.path, found.root)}')
        for part, picture in shown[:SAMPLES]
    ]


def _palette(found: Found) -> list | None:
    colours = [value for value in found.label_values if not isinstance(value, int)]
    return colours if colours and len(colours) == len(found.classes) else None


def annotated(found: Found, picture: Picture, meta: dict, least_side: int = 480) -> np.ndarray:
    """A picture with its annotations, (H, W, 3) uint8 RGB; small ones are enlarged by a whole factor."""
    image = cv2.cvtColor(read_image(picture.path), cv2.COLOR_BGR2RGB)
    factor = -(-least_side // max(image.shape[:2])) or 1
    if picture.label_map is not None:
        labels = label_map_of(found, picture)
        if labels.shape != image.shape[:2]:
            labels = np.array(Image.fromarray(labels).resize(image.shape[1::-1], Image.Resampling.NEAREST))
        image, labels = (each.repeat(factor, 0).repeat(factor, 1) for each in (image, labels))
        return draw_label_map(image, labels.astype(np.int64), meta['classes'], meta['palette'])
    size = image.shape[1] * factor, image.shape[0] * factor
    image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) if factor > 1 else image
    things = InstanceData()
    import torch

    things.bboxes = torch.tensor([thing.box for thing in picture.things]).reshape(-1, 4)
    things.labels = torch.tensor([thing.label for thing in picture.things], dtype=torch.long)
    if found.has_masks:
        things.masks = [
            coco_mask_of(thing, picture) if thing.mask is not None else np.zeros((picture.height, picture.width), bool)
            for thing in picture.things
        ]
    return draw_instances(image, things, range(len(things)), meta['classes'], meta['palette'], factor=factor, alpha=0.5)


def label_map_of(found: Found, picture: Picture) -> np.ndarray:
    """The class indices of the label map, (H, W); what is of no class has the ignored index."""
    info = {}
    if found.label_values:
        info['label_table'] = label_table(found.label_values, found.ignored_values, found.classes, found.ignore_index)
    return read_labels(picture.label_map, info)[0]
