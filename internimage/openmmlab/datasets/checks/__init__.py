"""Checks of the data that a config names, before a run writes anything: `check_data`.

One module per kind of data. Each returns notes, one line with a count for each kind of defect that was mended, and
raises a `DataError` for what cannot be mended without a guess.
"""

import copy
import os

from mmdet.datasets import CocoDataset, CrowdHumanDataset, OpenImagesDataset, XMLDataset
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmseg.datasets import BaseSegDataset

from ...configuration import leaf_datasets
from . import coco, label_maps, voc
from .errors import DataError

MODES = ('sample', 'full', 'off')
# Data sets that write their own files on first use.
SELF_GENERATING = ('ShapesDataset', 'ShapesSegDataset')


def check_data(cfg: Config, *splits: str, mode: str = 'sample') -> list[str]:
    """Checks that the files of the data sets of the `splits` ('train', 'val', 'test') exist and can be used.

    `mode`: 'sample' reads annotation files as a whole and a sample of images and label maps, 'full' all of them, 'off'
    looks only whether files and folders exist.

    Returns:
        notes: one line for each kind of defect that was mended, with a count.

    Raises:
        DataError: a file is missing or wrong; the message says which, and what to do.
    """
    if mode not in MODES:
        raise ValueError(f'mode must be one of {MODES}, got {mode!r}')
    notes = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        where = f'config {cfg.filename}: {split}_dataloader'
        evaluators = cfg.get(f'{split}_evaluator') or []
        evaluators = [evaluators] if isinstance(evaluators, dict) else evaluators
        datasets, generated = [], False
        for leaf in leaf_datasets(loader.dataset):
            kind = leaf.get('type')
            kind = kind.split('.')[-1] if isinstance(kind, str) else kind.__name__
            if kind in SELF_GENERATING and not os.path.lexists(leaf.get('data_root', '')):
                generated = True
                continue
            dataset = _build(cfg, leaf, where)
            datasets.append(dataset)
            _check_exists(dataset.data_root, f'{where}: data_root {dataset.data_root}')
            for path in (dataset.ann_file, *dataset.data_prefix.values()):
                _check_exists(path, f'{where}: {path}')
            if mode == 'off':
                continue
            if isinstance(dataset, BaseSegDataset):
                label_maps.prepare(cfg, split, leaf, dataset, evaluators)
                notes += label_maps.check(dataset, f'{split} data', full=mode == 'full')
            elif isinstance(dataset, CocoDataset):
                notes += coco.check_coco(dataset, where, mode)
            elif isinstance(dataset, CrowdHumanDataset):
                notes += voc.check_crowd_human(dataset, where)
            elif isinstance(dataset, OpenImagesDataset):
                notes += voc.check_open_images(dataset, where)
            elif isinstance(dataset, XMLDataset):
                notes += voc.check_voc(dataset, where, mode)
        for evaluator in evaluators:
            path = None if generated else evaluator.get('ann_file')
            metric = f'config {cfg.filename}: {split}_evaluator'
            _check_exists(path, f'{metric}: ann_file {path}')
            if mode != 'off' and path:
                notes += coco.check_coco_metric(evaluator, datasets, metric)
    coco.SAID.update(notes)
    return list(dict.fromkeys(notes))


def _build(cfg: Config, leaf: dict, where: str):
    """The data set, with its paths resolved by mmdet's and mmseg's own constructors; nothing is read yet."""
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
            return DATASETS.build({**copy.deepcopy(leaf), 'lazy_init': True})
    except DataError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        if not str(error):
            raise
        raise DataError(f'{where}: {error.args[0] if isinstance(error, KeyError) else error}') from error


def _check_exists(path: str | None, what: str) -> None:
    remote = path and '://' in path
    if path and not remote and not os.path.exists(path):
        raise DataError(f'{what} does not exist' + ('' if os.path.isabs(path) else f' in {os.getcwd()}'))
