"""The data sets of the detection configs, in their own formats and folders, of a few generated shapes."""

import csv
import json
import pickle
import shutil
from pathlib import Path
from xml.etree import ElementTree

import mmcv
from mmdet.datasets import CocoDataset, LVISV1Dataset, VOCDataset

from internimage.openmmlab.datasets import generate_shapes

SIZE = (128, 96)  # width, height
NUM_OPENIMAGES_CLASSES = 601


class Scenes:
    """Two scenes for training and two for testing: images on disk, boxes and labels 0 to 4 of what is on them."""

    def __init__(self, root: Path):
        generate_shapes(root, num_train=2, num_val=2, size=SIZE)
        self.root = root
        self.files = {split: root / f'annotations/instances_{split}.json' for split in ('train', 'val')}

    def of(self, split: str):
        """(name, path of the png, [(label, x, y, width, height)])"""
        content = json.loads(self.files[split].read_text())
        for image in content['images']:
            boxes = [
                (ann['category_id'] - 1, *ann['bbox'])
                for ann in content['annotations']
                if ann['image_id'] == image['id']
            ]
            yield f'{split}_{image["id"]:06}', self.root / 'images' / split / image['file_name'], boxes

    def write_images(self, split: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, path, _ in self.of(split):
            mmcv.imwrite(mmcv.imread(path), str(folder / f'{name}.jpg'))


def write_coco(scenes: Scenes, root: Path) -> None:
    def image(split, name):
        return dict(file_name=f'{name}.jpg')

    write_json_files(scenes, root, 'instances_{}2017.json', CocoDataset.METAINFO['classes'], image)


def write_lvis(scenes: Scenes, root: Path) -> None:
    def image(split, name):
        address = f'http://images.cocodataset.org/{split}2017/{name}.jpg'
        return dict(coco_url=address, neg_category_ids=[7], not_exhaustive_category_ids=[1])

    write_json_files(scenes, root, 'lvis_v1_{}.json', LVISV1Dataset.METAINFO['classes'], image)
    shutil.copy(root / 'annotations/lvis_v1_val.json', root / 'annotations/lvis_v1_minival.json')


def write_json_files(scenes: Scenes, root: Path, file_name: str, names: list, image) -> None:
    (root / 'annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        scenes.write_images(split, root / f'{split}2017')
        content = json.loads(scenes.files[split].read_text())
        for index, entry in enumerate(content['images']):
            name = f'{split}_{entry["id"]:06}'
            content['images'][index] = dict(id=entry['id'], width=SIZE[0], height=SIZE[1], **image(split, name))
        content['categories'] = [
            dict(id=index + 1, name=name, frequency='rcf'[index % 3]) for index, name in enumerate(names)
        ]
        (root / 'annotations' / file_name.format(split)).write_text(json.dumps(content))


def write_voc(scenes: Scenes, root: Path) -> None:
    names = VOCDataset.METAINFO['classes']
    for folder, splits in {
        'VOC2007': dict(trainval='train', test='val'),
        'VOC2012': dict(trainval='train'),
        'VOC2012test': dict(test='val'),
    }.items():
        lists, annotations = root / folder / 'ImageSets/Main', root / folder / 'Annotations'
        lists.mkdir(parents=True), annotations.mkdir()
        for list_name, split in splits.items():
            scenes.write_images(split, root / folder / 'JPEGImages')
            (lists / f'{list_name}.txt').write_text('\n'.join(name for name, *_ in scenes.of(split)))
            for name, _, boxes in scenes.of(split):
                xml = ElementTree.Element('annotation')
                add = ElementTree.SubElement
                size = add(xml, 'size')
                add(size, 'width').text, add(size, 'height').text = map(str, SIZE)
                for label, x, y, width, height in boxes:
                    thing = add(xml, 'object')
                    add(thing, 'name').text, add(thing, 'difficult').text = names[label], '0'
                    box = add(thing, 'bndbox')
                    for key, value in dict(xmin=x + 1, ymin=y + 1, xmax=x + width, ymax=y + height).items():
                        add(box, key).text = str(value)
                ElementTree.ElementTree(xml).write(annotations / f'{name}.xml')


def write_openimages(scenes: Scenes, root: Path) -> None:
    folder = root / 'annotations'
    folder.mkdir(parents=True)
    codes = [f'/m/{index:04}' for index in range(NUM_OPENIMAGES_CLASSES)]

    def write(name, *rows):
        with open(folder / name, 'w', newline='') as file:
            csv.writer(file).writerows(rows)

    write('class-descriptions-boxable.csv', *((code, f'class {index}') for index, code in enumerate(codes)))
    # Classes 0 and 1 are kinds of class 5.
    kinds = dict(LabelName=codes[5], Subcategory=[dict(LabelName=codes[0]), dict(LabelName=codes[1])])
    hierarchy = dict(LabelName='/m/root', Subcategory=[kinds, *(dict(LabelName=code) for code in codes[2:5])])
    (folder / 'bbox_labels_600_hierarchy.json').write_text(json.dumps(hierarchy))
    for split, name, boxes_file in (
        ('train', 'train', 'oidv6-train-annotations-bbox.csv'),
        ('val', 'validation', 'validation-annotations-bbox.csv'),
    ):
        scenes.write_images(split, root / name)
        rows, metas = [], []
        for image, _, boxes in scenes.of(split):
            metas.append(dict(filename=f'{root / name / image}.jpg', ori_shape=(SIZE[1], SIZE[0], 3)))
            for label, x, y, width, height in boxes:
                ends = [x / SIZE[0], (x + width) / SIZE[0], y / SIZE[1], (y + height) / SIZE[1]]
                rows.append([image, 'xclick', codes[label], 1, *ends, 0, 0, 0, 0, 0])
        header = 'ImageID Source LabelName Confidence XMin XMax YMin YMax IsOccluded IsTruncated IsGroupOf'
        write(boxes_file, [*header.split(), 'IsDepiction', 'IsInside'], *rows)
        (folder / f'{name}-image-metas.pkl').write_bytes(pickle.dumps(metas))
    verified = [[image, 'verification', codes[4], 0] for image, *_ in scenes.of('val')]
    write(
        'validation-annotations-human-imagelabels-boxable.csv',
        ['ImageID', 'Source', 'LabelName', 'Confidence'],
        *verified,
    )


def write_crowd_human(scenes: Scenes, root: Path) -> None:
    (root / 'annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        scenes.write_images(split, root / 'Images')
        lines = []
        for name, _, boxes in scenes.of(split):
            people = [
                dict(tag='person' if label else 'mask', fbox=box, vbox=box, hbox=box, extra={'ignore': int(not label)})
                for label, *box in boxes
            ]
            lines.append(json.dumps(dict(ID=name, gtboxes=people)))
        (root / f'annotations/annotation_{split}.odgt').write_text('\n'.join(lines))


WRITERS = dict(
    coco=write_coco, lvis=write_lvis, voc=write_voc, openimages=write_openimages, crowd_human=write_crowd_human
)
