"""What fails in a data pipeline is said with the file and the annotation, also by worker processes."""

import json

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from test_label_maps import build, config
from test_label_maps import write as write_segmentation
from torch.utils.data import DataLoader

from internimage.openmmlab.datasets.checks import check_data
from internimage.openmmlab.datasets.checks.errors import DataError

BROKEN = {
    'cut off': lambda path: path.write_bytes(path.read_bytes()[:500]),
    'empty': lambda path: path.write_bytes(b''),
    'no image': lambda path: path.write_text('<html>404</html>'),
    'missing': lambda path: path.unlink(),
    'a folder': lambda path: (path.unlink(), path.mkdir()),
}


def messages(dataset, index):
    """Of the error, in this process and from a worker."""
    for read in (
        lambda: dataset[index],
        lambda: list(DataLoader(dataset, num_workers=1, batch_size=1, collate_fn=list)),
    ):
        with pytest.raises(DataError) as error:
            read()
        assert '\n' not in str(error.value) and 'Traceback' not in str(error.value)
        yield str(error.value)


@pytest.mark.parametrize('kind', BROKEN)
def test_broken_images_of_a_segmentation_data_set(kind, tmp_path):
    write_segmentation(tmp_path)
    dataset = build(config(tmp_path))
    path = tmp_path / 'images/002.jpg'
    BROKEN[kind](path)
    for message in messages(dataset, 2):
        assert message.startswith(f'{path}: ')
    if kind not in ('missing', 'a folder'):  # of a folder that is read, these are not images
        with pytest.raises(DataError, match='002.jpg: '):
            check_data(config(tmp_path), 'train')


def coco(root, boxes, pipeline=(), **options):
    """A detection data set of one category, image k with the boxes `boxes[k]`."""
    (root / 'images').mkdir(exist_ok=True)
    content = dict(images=[], annotations=[], categories=[dict(id=1, name='thing')])
    for number, of_image in enumerate(boxes):
        Image.new('RGB', (40, 30)).save(root / f'images/{number}.png')
        content['images'].append(dict(id=number, file_name=f'{number}.png', width=40, height=30))
        for box in of_image:
            content['annotations'].append(
                dict(id=len(content['annotations']) + 1, image_id=number, category_id=1, bbox=box, area=1, iscrowd=0)
            )
    (root / 'boxes.json').write_text(json.dumps(content))
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(
            dict(
                type='CocoDataset',
                data_root=str(root),
                ann_file='boxes.json',
                data_prefix=dict(img='images'),
                metainfo=dict(classes=('thing',)),
                pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), *pipeline],
                serialize_data=False,
                **options,
            )
        )


@pytest.mark.parametrize('kind', BROKEN)
def test_broken_images_of_a_detection_data_set(kind, tmp_path):
    dataset = coco(tmp_path, [[[1, 2, 3, 4]]] * 3)
    assert isinstance(dataset, CocoDataset)
    path = tmp_path / 'images/1.png'
    path.write_bytes(path.read_bytes() + bytes(600))
    BROKEN[kind](path)
    if kind == 'cut off':
        path.write_bytes(path.read_bytes()[:60])
    for message in messages(dataset, 1):
        assert message.startswith(f'{path}: ')


def test_the_annotation_that_fails_is_named(tmp_path):
    dataset = coco(tmp_path, [[[1, 2, 3, 4]], [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 2, 2]]])
    dataset.data_list[1]['instances'][1]['bbox'] = [1, 'two', 3, 4]
    for message in messages(dataset, 1):
        assert message.startswith(
            f"{tmp_path}/images/1.png: annotation 2 of 3, bbox [1, 'two', 3, 4]: LoadAnnotations: TypeError"
        )


class Fails:
    def __call__(self, results):
        raise RuntimeError(f'no luck\nwith image {results["img_id"]}')


def test_other_transforms_say_where_they_failed(tmp_path):
    dataset = coco(tmp_path, [[[1, 2, 3, 4]]])
    dataset.pipeline.transforms.append(Fails())
    for message in messages(dataset, 0):
        assert message.startswith(
            f'{tmp_path}/images/0.png: Fails: RuntimeError: no luck with image 0 (test_pipeline_errors.py, line '
        )


def test_images_that_are_left_out_without_end(tmp_path):
    """mmengine: 'Cannot find valid image after 1000!'."""
    keep = dict(type='FilterAnnotations', min_gt_bbox_wh=(8, 8), keep_empty=True)
    dataset = coco(tmp_path, [[[1, 2, 3, 4]], [[1, 2, 5, 4]]], [keep], max_refetch=5)
    with pytest.raises(DataError, match=r'images/\d.png: left out by FilterAnnotations.* all of the 6 images in a row'):
        dataset[0]
    dataset = coco(tmp_path, [[[1, 2, 3, 4]], [[1, 2, 15, 14]]], [keep], max_refetch=50)
    assert dataset[0]['img_path'].endswith('1.png')  # another image takes its place, as ever
    dataset = coco(tmp_path, [[[1, 2, 3, 4]]], [keep], test_mode=True)
    with pytest.raises(DataError, match='images/0.png: left out by FilterAnnotations'):
        dataset[0]


def test_an_error_of_another_kind_of_data_set(tmp_path):
    """Without files and without mmengine's Compose the error is as it was."""

    class Numbers(BaseDataset):
        def load_data_list(self):
            return [dict(value=1)]

    dataset = Numbers(pipeline=[Fails()], serialize_data=False)
    with pytest.raises(DataError, match="image 0: Fails: KeyError: 'img_id'"):
        dataset[0]
    dataset.pipeline = Fails()
    with pytest.raises(KeyError):
        dataset[0]


def test_right_data_are_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    dataset = coco(tmp_path, [[[1, 2, 3, 4]], [[4, 5, 9, 8], [0, 0, 40, 30]]])
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(tmp_path / 'images/1.png')
    expected = dataset.pipeline(dataset.get_data_info(1))
    found = dataset[1]
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(found['img'], expected['img'])
    np.testing.assert_array_equal(found['gt_bboxes'].tensor, [[4, 5, 13, 13], [0, 0, 40, 30]])
