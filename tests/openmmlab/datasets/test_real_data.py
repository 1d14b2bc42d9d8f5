"""What real annotations hold and no generated data set does; needs the real data beside a developer's checkout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope

import internimage.openmmlab  # noqa: F401  (registers)

DEMO = Path(__file__).resolve().parents[3] / 'configs' / 'demo'


def load(name: str, root: Path):
    cfg = Config.fromfile(DEMO / f'{name}.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(root)
    return cfg


@pytest.fixture
def bccd(shared):
    return load('faster_rcnn_internimage_small_bccd', shared / 'data' / 'bccd' / 'BCCD')


def test_boxes_without_area_are_not_trained_on(bccd):
    """BloodImage_00343 has one; a finite loss comes of the others."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(bccd.train_dataloader.dataset)
        names = [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))]
        index = names.index('BloodImage_00343')
        raw = torch.tensor([box['bbox'] for box in dataset.get_data_info(index)['instances']])
        sizes = raw[:, 2:] - raw[:, :2]
        assert (sizes.min(1).values <= 0).sum() == 1
        torch.manual_seed(0)
        sample = dataset[index]
        assert len(sample['data_samples'].gt_instances) == len(raw) - 1
        model = MODELS.build(bccd.model)
        batch = model.data_preprocessor(dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']]), True)
        losses = model(**batch, mode='loss')
    flat = [x for value in losses.values() for x in (value if isinstance(value, list) else [value])]
    assert all(x.isfinite().all() for x in flat)


def test_void_is_the_index_behind_the_classes(shared):
    cfg = load('upernet_internimage_small_camvid', shared / 'data' / 'camvid')
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        labels = torch.cat([dataset[i]['data_samples'].gt_sem_seg.data.unique() for i in range(8)]).unique()
    assert len(dataset) == 367
    assert set(labels.tolist()) <= set(range(12)) and 11 in labels


def test_run_length_masks(shared):
    cfg = load('mask_rcnn_internimage_small_nuclei', shared / 'data' / 'nuclei')
    np.random.seed(0)  # a smaller size can leave nothing of a small mask
    with DefaultScope.overwrite_default_scope('mmdet'):
        sample = DATASETS.build(cfg.train_dataloader.dataset)[0]
    instances = sample['data_samples'].gt_instances
    assert len(instances) > 0 and instances.masks.masks.any(axis=(1, 2)).all()
