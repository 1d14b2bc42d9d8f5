"""Tiny folders of data in every format that `internimage new` reads, and broken copies of them.

Every picture holds two rectangles: a dark one ('cat', label 0 where the format has numbers) and a light one ('dog').
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64, 48  # width, height
BOXES = (
    (8, 6, 30, 26),
    (34, 14, 60, 44),
)  # x1, y1, x2, y2 of the cat and the dog in picture 0; one pixel further down in 1 ...
NAMES = ('cat', 'dog')


def pixels(number: int) -> np.ndarray:
    image = np.random.default_rng(number).integers(100, 140, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    for (x1, y1, x2, y2), value in zip(boxes(number), (20, 230), strict=True):
        image[y1:y2, x1:x2] = value
    return image


def boxes(number: int) -> list[tuple[int, int, int, int]]:
    return [(x1, y1 + number % 4, x2, y2 + number % 4) for x1, y1, x2, y2 in BOXES]


def polygon(box) -> list[int]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def save(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(number)).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def coco_json(names: list[str], masks: bool = True) -> dict:
    images = [dict(id=i, file_name=name, width=SIZE[0], height=SIZE[1]) for i, name in enumerate(names)]
    annotations = []
    for i in range(len(names)):
        for label, box in enumerate(boxes(i)):
            x1, y1, x2, y2 = box
            row = dict(
                id=2 * i + label + 1, image_id=i, category_id=label + 1, bbox=[x1, y1, x2 - x1, y2 - y1], iscrowd=0
            )
            row['area'] = (x2 - x1) * (y2 - y1)
            annotations.append(row | (dict(segmentation=[polygon(box)]) if masks else {}))
    return dict(images=images, annotations=annotations, categories=[dict(id=i, name=n) for i, n in enumerate(NAMES, 1)])


def coco(root: Path) -> Path:
    for i in range(6):
        save(root / 'images' / f'{i}.jpg', i)
    write(root / 'labels.json', json.dumps(coco_json([f'{i}.jpg' for i in range(6)])))
    return root


def roboflow(root: Path) -> Path:
    """COCO as Roboflow exports it: a json in each part, and a category 0 with the name of the project."""
    for part, count in (('train', 4), ('valid', 2), ('test', 2)):
        content = coco_json([f'{part}{i}_jpg.rf.{i:08x}.jpg' for i in range(count)], masks=False)
        for image in content['images']:
            save(root / part / image['file_name'], image['id'] + 10 * len(part))
        content['categories'] = [dict(id=0, name='pets', supercategory='none')] + [
            dict(each, supercategory='pets') for each in content['categories']
        ]
        write(root / part / '_annotations.coco.json', json.dumps(content))
    return root


def voc(root: Path) -> Path:
    for i in range(5):
        save(root / 'JPEGImages' / f'p{i}.jpg', i)
        objects = ''.join(
            f'<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>'
            f'<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>'
            for name, (x1, y1, x2, y2) in zip(NAMES, boxes(i), strict=True)
        )
        size = f'<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>'
        write(
            root / 'Annotations' / f'p{i}.xml', f'<annotation><filename>p{i}.jpg</filename>{size}{objects}</annotation>'
        )
    for part, numbers in (('train', (0, 1, 2)), ('val', (3, 4))):
        write(root / 'ImageSets' / 'Main' / f'{part}.txt', ''.join(f'p{i}\n' for i in numbers))
    return root


def yolo(root: Path, polygons: bool = False) -> Path:
    for part, count in (('train', 4), ('val', 2)):
        for i in range(count):
            save(root / part / 'images' / f'{i}.png', i + 10 * len(part))
            lines = []
            for label, box in enumerate(boxes(i + 10 * len(part))):
                x1, y1, x2, y2 = box
                values = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
                values = polygon(box) if polygons else values
                parts = [value / SIZE[index % 2] for index, value in enumerate(values)]
                lines.append(' '.join([str(label), *(f'{value:.6f}' for value in parts)]))
            write(root / part / 'labels' / f'{i}.txt', '\n'.join(lines) + '\n')
    write(root / 'data.yaml', 'train: ../train/images\nval: ../val/images\nnc: 2\nnames: [cat, dog]\n')
    return root


def labelme(root: Path) -> Path:
    for i in range(5):
        save(root / f'{i}.jpg', i)
        shapes = [
            dict(label='cat', shape_type='rectangle', points=[boxes(i)[0][:2], boxes(i)[0][2:]]),
            dict(label='dog', shape_type='polygon', points=np.reshape(polygon(boxes(i)[1]), (4, 2)).tolist()),
        ]
        content = dict(version='5', shapes=shapes, imagePath=f'{i}.jpg', imageHeight=SIZE[1], imageWidth=SIZE[0])
        write(root / f'{i}.json', json.dumps(content))
    return root


def label_map(number: int, values) -> np.ndarray:
    values = np.array(values)
    labels = np.zeros((SIZE[1], SIZE[0]), int)
    for label, (x1, y1, x2, y2) in enumerate(boxes(number), start=1):
        labels[y1:y2, x1:x2] = min(label, len(values) - 1)
    return values[labels].astype(np.uint8)


def label_maps(root: Path, values, names: str | None = None, suffix: str = '.png') -> Path:
    """One part alone: images/NAME.jpg and masks/NAME + suffix. `values`: of background, cat, dog."""
    for i in range(6):
        save(root / 'images' / f'{i}.jpg', i)
        (root / 'masks').mkdir(exist_ok=True)
        Image.fromarray(label_map(i, values)).save(root / 'masks' / f'{i}{suffix}')
    if names:
        write(root / 'labelmap.txt', names)
    return root


COLOURS = (0, 0, 0), (128, 0, 0), (0, 200, 90)
CVAT = '# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,200,90::\n'


def colours(root: Path) -> Path:
    return label_maps(root, COLOURS, CVAT)


def binary(root: Path) -> Path:
    return label_maps(root, (0, 255), suffix='_mask.png')


def indices(root: Path) -> Path:
    """Parts, and void as 255."""
    for part, count in (('train', 4), ('val', 2)):
        for i in range(count):
            save(root / part / 'images' / f'{i}.png', i + 10 * len(part))
            labels = label_map(i, (0, 1, 2))
            labels[:2] = 255
            (root / part / 'labels').mkdir(exist_ok=True)
            Image.fromarray(labels).save(root / part / 'labels' / f'{i}.png')
    write(root / 'classes.txt', 'background\ncat\ndog\n')
    return root


def instances(root: Path) -> Path:
    return label_maps(root, (0, 7, 9))


def cut_off(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def break_coco(root: Path) -> dict[str, int]:
    """Breaks the folder of `coco`. Returns: the kinds of problems that are to be found, with their number."""
    content = json.loads((root / 'labels.json').read_text())
    content['annotations'][0]['bbox'] = [50, 10, 100, 10]
    content['annotations'][1]['category_id'] = 9
    content['annotations'][2]['bbox'] = [1, 2, None, 3]
    content['images'].append(dict(id=99, file_name='gone.jpg', width=64, height=48))
    write(root / 'labels.json', json.dumps(content))
    cut_off(root / 'images' / '5.jpg')
    (root / 'images' / '4.jpg').write_bytes((root / 'images' / '3.jpg').read_bytes())
    return {
        'box that leaves its picture, cut off': 1,
        'annotation that cannot be used, left out': 2,
        'image does not exist': 1,
        'image cannot be read': 1,
        'the same picture twice': 1,
    }


def break_voc(root: Path) -> dict[str, int]:
    cut_off(root / 'Annotations' / 'p0.xml')
    text = (root / 'Annotations' / 'p1.xml').read_text()
    write(
        root / 'Annotations' / 'p1.xml',
        text.replace('<xmax>30</xmax>', '<xmax>9</xmax>').replace('<xmin>35</xmin>', ''),
    )
    (root / 'JPEGImages' / 'p4.jpg').unlink()
    return {
        'annotation file cannot be read': 1,
        'box without area, left out': 1,
        'object that cannot be used, left out': 1,
        'image does not exist': 1,
    }


def break_yolo(root: Path) -> dict[str, int]:
    labels = root / 'train' / 'labels'
    write(labels / '0.txt', '0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.1 0.1\n1 32 20 10 10\n1 0.5 0.5\n')
    write(labels / 'nobody.txt', '0 0.5 0.5 0.2 0.2\n')
    write(
        root / 'data.yaml',
        'train: ../train/images\nval: ../val/images\ntest: ../test/images\nnc: 3\nnames: [cat, dog]\n',
    )
    cut_off(root / 'train' / 'images' / '1.png')
    return {
        'object that is there twice, one left out': 1,
        'class that does not exist, object left out': 1,
        'coordinates outside 0 to 1 (pixels?), object left out': 1,
        'line that is not "class x y width height" or "class x1 y1 x2 y2 ...", left out': 1,
        'annotations without an image': 1,
        'nc is not the number of names': 1,
        'folder of the yaml does not exist': 1,
        'image cannot be read': 1,
    }


def break_labelme(root: Path) -> dict[str, int]:
    content = json.loads((root / '0.json').read_text())
    content['shapes'][0]['points'] = [[1, 1]]
    content['shapes'].append(dict(label='cat', shape_type='line', points=[[1, 1], [9, 9]]))
    write(root / '0.json', json.dumps(content))
    cut_off(root / '1.json')
    (root / '2.jpg').unlink()
    return {
        'shape that cannot be used, left out': 2,
        'annotation file cannot be read': 1,
        'image does not exist': 1,
    }


def break_colours(root: Path) -> dict[str, int]:
    labels = np.array(Image.open(root / 'masks' / '0.png'))
    labels[3, :5] = 1, 2, 3
    Image.fromarray(labels).save(root / 'masks' / '0.png')
    cut_off(root / 'masks' / '1.png')
    (root / 'masks' / '2.png').unlink()
    return {
        'label map with a colour of no class, ignored there': 1,
        'label map that cannot be used, left out': 1,
        'image without a label map, left out': 1,
    }


def break_binary(root: Path) -> dict[str, int]:
    Image.open(root / 'masks' / '0_mask.png').save(root / 'masks' / 'other.png')
    cut_off(root / 'images' / '1.jpg')
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(root / 'masks' / '2_mask.png')
    return {
        'label map without an image': 1,
        'image cannot be read': 1,
        'label map of another size than its image, left out': 1,
    }


def break_indices(root: Path) -> dict[str, int]:
    path = root / 'train' / 'labels' / '0.png'
    labels = np.array(Image.open(path))
    labels[5, 5] = 77
    Image.fromarray(labels).save(path)
    return {'label map with a value of no class, left out': 1}


def break_roboflow(root: Path) -> dict[str, int]:
    path = root / 'train' / '_annotations.coco.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['image_id'] = 555
    content['images'][1].update(width=32)
    write(path, json.dumps(content))
    next((root / 'valid').glob('*.jpg')).unlink()
    return {
        'annotation that cannot be used, left out': 1,
        'another size than the annotations state': 1,
        'image does not exist': 1,
    }
