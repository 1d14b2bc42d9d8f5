"""Checkpoints in OpenMMLab: importing this module makes mmengine read through `internimage.checkpoint`.

`load_from`, `resume` and `init_cfg` of any config take every form that `read_checkpoint` takes, and mmengine later
executes nothing that a file contains, and deletes no file that it names.
"""

import copy
import logging
from collections.abc import Mapping
from numbers import Real
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch
from mmengine.fileio import get_local_path
from mmengine.logging import HistoryBuffer, print_log
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from mmengine.utils import apply_to
from torch import nn

from ..checkpoint import CheckpointError, printable, read_checkpoint
from .configuration import CLASS_COUNTS, dicts


class _ToMMEngine(logging.Handler):
    """Messages of `internimage.checkpoint` go to mmengine's log: the terminal and the work folder."""

    def emit(self, record: logging.LogRecord) -> None:
        print_log(record.getMessage(), logger='current', level=record.levelno)


logging.getLogger('internimage').addHandler(_ToMMEngine())
logging.getLogger('internimage').setLevel(logging.INFO)


def build_on_meta(model: dict) -> nn.Module:
    """The model of a config's `model` with all names and shapes, but no memory for weights."""
    with torch.device('meta'):
        return MODELS.build(copy.deepcopy(model))


def class_layers(model: dict) -> set[str]:
    """Names of the weights whose shape depends on the number of classes, for a config's `model`.

    Found by building the model with one class more, so that it holds for any head.
    """
    more = copy.deepcopy(model)
    for node in dicts(more):
        for key in CLASS_COUNTS & node.keys():
            node[key] += 1
    shapes = build_on_meta(more).state_dict()
    return {
        name
        for name, x in build_on_meta(model).state_dict().items()
        if name in shapes and x.shape != shapes[name].shape
    }


@CheckpointLoader.register_scheme(('', 'http://', 'https://'), force=True)
def _read_for_mmengine(filename, map_location=None) -> dict:
    """Never executes what a file contains, as mmengine's own loader may."""
    checkpoint = read_checkpoint(filename, map_location)
    try:
        return harmless_state(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f'checkpoint {filename}: {error}') from error


@CheckpointLoader.register_scheme(('modelzoo://', 'torchvision://'), force=True)
def _read_from_torchvision(filename, map_location=None) -> dict:
    return _read_by_name(filename, get_torchvision_models(), map_location)


@CheckpointLoader.register_scheme(('open-mmlab://', 'openmmlab://'), force=True)
def _read_from_openmmlab(filename, map_location=None) -> dict:
    scheme, name = filename.split('://', 1)
    renamed = get_deprecated_model_names().get(name, name)
    return _read_by_name(f'{scheme}://{renamed}', get_external_models(), map_location)


@CheckpointLoader.register_scheme('mmcls://', force=True)
def _read_from_mmcls(filename, map_location=None) -> dict:
    """The backbone of a classifier, under its own names."""
    weights = _read_by_name(filename, get_mmcls_models(), map_location)['state_dict']
    prefix = 'backbone.'
    return {'state_dict': {name[len(prefix) :]: x for name, x in weights.items() if name.startswith(prefix)}}


@CheckpointLoader.register_scheme((r'(\S+\:)?s3://', r'(\S+\:)?petrel://', 'pavi://'), force=True)
def _read_from_store(filename, map_location=None) -> dict:
    if filename.startswith('pavi://'):
        raise CheckpointError(f'checkpoint {filename} cannot be fetched safely: fetch it and name the local file')
    with get_local_path(filename, backend_args={'backend': 'petrel'}) as file:
        return _read_for_mmengine(file, map_location)


def _read_by_name(filename: str, addresses: Mapping[str, str], map_location) -> dict:
    name = filename.split('://', 1)[1]
    if name not in addresses:
        raise CheckpointError(f'checkpoint {filename}: mmengine knows no address for {name}')
    address = addresses[name]
    if '://' not in address:  # a file in mmengine's own folder
        address = str(Path(_get_mmengine_home(), address))
    return _read_for_mmengine(address, map_location)


# What mmengine stores of a training


def harmless_state(checkpoint: dict) -> dict:
    """`checkpoint` without what mmengine would execute, and without paths of files that it would delete.

    mmengine executes `meta['config']` when it resumes, and the `cfg` of the log or of `meta` in its Inferencer: they
    are Python. The text is kept under `meta['config_text']`, which nothing executes. mmengine deletes the file named
    under `best_ckpt` when there is a better one, and the checkpoints numbered `keep_ckpt_ids`: of `best_ckpt` only the
    file name of a checkpoint is kept, of `keep_ckpt_ids` only numbers.

    Raises:
        CheckpointError: a counter is not a whole number, or a part is not a dict.
    """
    checkpoint = dict(checkpoint)
    if checkpoint.get('meta') is not None:
        checkpoint['meta'] = _harmless_meta(_mapping(checkpoint['meta'], 'meta'))
    if 'message_hub' in checkpoint:
        checkpoint['message_hub'] = _harmless_hub(_mapping(checkpoint['message_hub'], 'message_hub'))
    if 'optimizer' in checkpoint:
        # Unlike weights, which are copied into the model, this becomes the optimizer's own: it must not be mapped from
        # a file that the training may overwrite.
        optimizer = _mapping(checkpoint['optimizer'], 'optimizer')
        checkpoint['optimizer'] = _without_fused(apply_to(optimizer, torch.is_tensor, torch.clone))
    return checkpoint


def _without_fused(optimizer: dict) -> dict:
    """Without the choice of the fused step, which reads and writes past the end of a state that is too small: it is the
    config's, and for one that says nothing torch's own."""
    for state in [optimizer, *optimizer.values()]:  # of one optimizer, or several by name
        groups = state.get('param_groups') if isinstance(state, dict) else None
        for group in groups if isinstance(groups, list) else ():
            if isinstance(group, dict):
                group.pop('fused', None)
    return optimizer


def _harmless_meta(meta: Mapping) -> dict:
    meta = dict(meta)
    texts = [meta.pop(key) for key in ('cfg', 'config') if key in meta]
    if texts and isinstance(texts[-1], str):
        meta['config_text'] = texts[-1]
    for key in ('epoch', 'iter', 'seed'):
        if meta.get(key) is not None:
            meta[key] = _count(meta[key], f'meta: {key}')
    return meta


def _harmless_hub(hub: Mapping) -> dict:
    scalars, info, resumed = (
        dict(_mapping(hub.get(key, {}), key)) for key in ('log_scalars', 'runtime_info', 'resumed_keys')
    )
    scalars = {key: value for key, value in scalars.items() if _is_name(key) and isinstance(value, HistoryBuffer)}
    info = {key: value for key, value in info.items() if _is_name(key) and key not in ('cfg', 'last_ckpt')}
    for key in list(info):
        if key.startswith('best_ckpt'):
            info[key] = _checkpoint_name(info[key])
            if info[key] is None:
                del info[key]
        elif key.startswith('best_score') and not isinstance(info[key], Real):
            del info[key]  # is compared with the next score
        elif key == 'keep_ckpt_ids':
            ids = info[key]
            info[key] = [id_ for id_ in ids if type(id_) is int and id_ >= 0] if isinstance(ids, (list, tuple)) else []
        elif key in ('epoch', 'iter', 'max_epochs', 'max_iters'):
            info[key] = _count(info[key], f'message_hub: {key}')
    return {
        'log_scalars': scalars,
        'runtime_info': info,
        'resumed_keys': {key: bool(value) for key, value in resumed.items() if key in scalars or key in info},
    }


def _checkpoint_name(path) -> str | None:
    """The file name of the best checkpoint of a training; None if `path` is anything else."""
    name = PureWindowsPath(PurePosixPath(path).name).name if isinstance(path, str) else ''
    return name if name.startswith('best_') and name.endswith('.pth') else None


def _mapping(value, name: str) -> Mapping:
    if not isinstance(value, Mapping):
        raise CheckpointError(f'{name} is a {type(value).__name__}, not a dict')
    return value


def _count(value, name: str) -> int:
    if isinstance(value, bool) or not hasattr(value, '__index__') or not 0 <= value.__index__() < 2**63:
        raise CheckpointError(f'{name} is {printable(value)}, not a whole number')
    return value.__index__()


def _is_name(key) -> bool:
    return isinstance(key, str) and key.isprintable()
