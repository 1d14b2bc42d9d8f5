"""Comparing the classes of a config with those of a checkpoint: one rule for training, test and inference."""

import logging
import re
from collections.abc import Mapping, Sequence

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope

from ...checkpoint import CheckpointError, dataset_meta
from ..configuration import leaf_datasets

SPELLED_OTHERWISE = 1 / 20  # of the names


def check_classes(own: Sequence[str] | None, checkpoint: Mapping, path, renamed: bool = False) -> str | None:
    """Compares `own`, the names of the config in the order of their indices, with those that the checkpoint holds.

    Names that differ only in case, spaces, hyphens and underscores are the same; so are, with a warning, a few of a
    long list (`SPELLED_OTHERWISE`) that no other place of it has: releases of a data set differ in spelling.
    Where one side has no names, nothing is compared; where the numbers differ, the shapes of the weights decide.

    Args:
        renamed: allow other names, the same number of them (fine-tuning on other classes).

    Returns:
        With `renamed`, a text that names the first differing class, where names differ; else None.

    Raises:
        CheckpointError: the same names in another order, or, without `renamed`, other names.
    """
    theirs = dataset_meta(checkpoint, path).get('classes')
    if not own or not theirs or len(own) != len(theirs):
        return None
    ours, known = [_plain(name) for name in own], [_plain(name) for name in theirs]
    if ours == known:
        return None
    first = next(index for index in range(len(own)) if ours[index] != known[index])
    where = f'class {first} is {str(theirs[first])!r} in the checkpoint and {str(own[first])!r} in the config'
    if sorted(ours) == sorted(known):
        raise CheckpointError(
            f'checkpoint {path} has the same {len(own)} classes in another order: {where}: list the classes of the '
            'config in the order of the checkpoint'
        )
    differing = [(mine, other) for mine, other in zip(ours, known, strict=True) if mine != other]
    number = len(differing)
    text = f'{number} of {len(own)} classes have other names: {where}'
    moved = any(mine in known or other in ours for mine, other in differing)
    if number <= len(own) * SPELLED_OTHERWISE and not moved:
        print_log(f'checkpoint {path}: {text}; taken for the same', logger='current', level=logging.WARNING)
        return None
    if not renamed:
        raise CheckpointError(
            f'checkpoint {path} was trained on other classes; {text}: give the config the names of the checkpoint, or '
            'take a checkpoint of these classes'
        )
    return text


def dataset_classes(cfg: Config, split: str, stated: bool = False) -> Sequence[str] | None:
    """The names of the first data set of `split` ('train', 'val', 'test'); of several data sets all have the same.

    Args:
        stated: only names that the config itself lists, not those that come with the class of the data set.
    """
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        return None
    leaf = next(leaf_datasets(loader.dataset))
    metainfo = dict(leaf.get('metainfo') or {})
    if stated and 'classes' not in metainfo:
        return None
    with (
        DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')),
        DATASETS.switch_scope_and_registry(None) as registry,
    ):
        kind = leaf.type if isinstance(leaf.type, type) else registry.get(leaf.type)
    return kind._load_metainfo(metainfo).get('classes')  # as every data set of OpenMMLab reads it


def _plain(name) -> str:
    return re.sub(r'[\s_-]+', '', str(name)).casefold()
