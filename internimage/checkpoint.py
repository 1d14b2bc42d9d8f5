"""Reading checkpoints: safe, strict, and with one clear error for everything that can be wrong with a file.

Nothing here ever runs code out of a checkpoint: `torch.load(weights_only=True)` is the only way in.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used. The message is one line that names the file and says why."""


def _safe_globals() -> list:
    """What a training run of OpenMMLab stores beside tensors: numpy numbers and arrays, and the history of its logs."""
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    functions = [multiarray.scalar, multiarray._reconstruct]
    # numpy 2 renamed numpy.core: a file written under either name is read under both.
    renamed = [
        (function, f'numpy.{core}.multiarray.{function.__name__}')
        for function in functions
        for core in ('core', '_core')
    ]
    dtypes = {type(np.dtype(code)) for code in '?' + np.typecodes['AllInteger'] + np.typecodes['AllFloat']}
    return [HistoryBuffer, (_history_getattr, 'builtins.getattr'), np.ndarray, np.dtype, *dtypes, *renamed]


def _history_getattr(owner, name: str):
    """Stands in for `getattr`, by which a HistoryBuffer refers to its statistics; for anything else that is a way
    around the list."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UnpicklingError(f'GLOBAL getattr({owner}, {name!r})')
    return getattr(owner, name)


def read_checkpoint(path, map_location='cpu') -> dict:
    """Everything that the local file `path` holds, its weights always under `'state_dict'`.

    The weights may stand in the file under `'state_dict'` (OpenMMLab), under `'model'` (official InternImage
    classification), or be the file itself; a leading `module.` is taken off their names.

    Raises:
        CheckpointError: no such file, not a checkpoint, cut short, holds no weights, or holds objects of a class that
            is neither a tensor nor what OpenMMLab stores (loading it could run any code).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f'checkpoint {path} does not exist')
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError here
        offender = re.search(r'GLOBAL (\S+)', str(error))
        if offender:
            why = f'is not safe to load: it holds {offender[1]}, which is neither weights nor training state'
        else:
            reason = str(error).strip().split('\n')[0].split('. ')[0]
            why = f'is not a checkpoint or is cut short ({type(error).__name__}: {reason})'
        raise CheckpointError(f'checkpoint {path} {why}') from error

    content = dict(content) if isinstance(content, Mapping) else {}
    found = [content.pop(key) for key in ('state_dict', 'model') if isinstance(content.get(key), Mapping)]
    weights = found[0] if found else content
    weights = {name.removeprefix('module.'): value for name, value in weights.items() if isinstance(value, Tensor)}
    if not weights:
        raise CheckpointError(f'checkpoint {path} holds no weights')
    return {**(content if found else {}), 'state_dict': weights}


def read_state_dict(path) -> dict[str, Tensor]:
    """The weights alone of the local file `path`, on the CPU. Accepts and raises what `read_checkpoint` does."""
    return read_checkpoint(path)['state_dict']


def check_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], path) -> None:
    """Do the weights of the file `path` fit `model`, name for name and shape for shape?

    Raises:
        CheckpointError: they do not; with the number of missing, unexpected and differently shaped entries and the
            first names of each. `num_batches_tracked` may be missing, as in mmengine.
    """
    own = _unwrap(model).state_dict()
    problems = {
        'missing': [name for name in own if name not in state_dict and not name.endswith('num_batches_tracked')],
        'unexpected': [name for name in state_dict if name not in own],
        'of another shape': [
            f'{name} {tuple(state_dict[name].shape)} (the model has {tuple(value.shape)})'
            for name, value in own.items()
            if name in state_dict and state_dict[name].shape != value.shape
        ],
    }
    listed = [
        f'{len(names)} {kind}: {", ".join(names[:3])}{", ..." if len(names) > 3 else ""}'
        for kind, names in problems.items()
        if names
    ]
    if listed:
        raise CheckpointError(
            f'checkpoint {path} is of another model, {len(own)} entries in the model, {len(state_dict)} in the file; '
            + '; '.join(listed)
        )


def load_checkpoint_strict(model: nn.Module, path) -> dict:
    """Loads the local file `path` into `model`, all of it or nothing, and returns what `read_checkpoint` does.

    Raises:
        CheckpointError: as `read_checkpoint` and `check_state_dict`; the model is then as it was before.
    """
    checkpoint = read_checkpoint(path)
    check_state_dict(model, checkpoint['state_dict'], path)
    _unwrap(model).load_state_dict(checkpoint['state_dict'], strict=False)  # checked above
    return checkpoint


def _unwrap(model: nn.Module) -> nn.Module:
    """The model inside mmengine's wrappers (data parallel, test-time augmentation), whose names have no prefix."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def load_pretrained_backbone(backbone: nn.Module, path: str) -> None:
    """Loads a backbone from an official ImageNet checkpoint, and says what of the file was not used.

    `path` is a local file, or an http(s) address that is fetched once into torch's hub folder. Besides the ImageNet
    form, a whole detector's or segmentor's checkpoint is taken (names that start with `backbone.`). Everything the
    backbone has must be in the file, with one exception: layer scales (gamma1, gamma2) that start at exactly 1 may be
    missing and then keep their 1. InternImage-T needs it: its ImageNet model has no layer scale, its detectors and
    segmentors have.

    Raises:
        CheckpointError: as `read_checkpoint`, or a name is missing or has another shape; nothing is loaded then.
    """
    file = _local_file(str(path))
    weights = read_state_dict(file)
    if any(name.startswith('backbone.') for name in weights):
        weights = {
            name.removeprefix('backbone.'): value for name, value in weights.items() if name.startswith('backbone.')
        }
    own = backbone.state_dict()
    scales_of_one = {
        name: value
        for name, value in own.items()
        if name.endswith(('gamma1', 'gamma2')) and name not in weights and bool((value == 1).all())
    }
    used = {**{name: value for name, value in weights.items() if name in own}, **scales_of_one}
    check_state_dict(backbone, used, path)
    backbone.load_state_dict(used, strict=False)  # checked above

    unused = [name for name in weights if name not in own]
    message = f'backbone: {len(used) - len(scales_of_one)} of {len(own)} entries loaded from {path}'
    if scales_of_one:
        message += f'; not in the file, kept at 1: {", ".join(scales_of_one)}'
    if unused:
        message += f'; in the file, not used: {", ".join(unused)}'
    print_log(message, logger='current')


def _local_file(path: str) -> Path:
    if not path.startswith(('http://', 'https://')):
        return Path(path)
    file = Path(torch.hub.get_dir(), 'checkpoints', path.rsplit('/', 1)[1])
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(path, str(file))  # shows progress; moves the file into place when complete
        except OSError as error:
            raise CheckpointError(
                f'checkpoint {path} cannot be fetched ({error}): fetch it by other means and put it at {file}, or name '
                'a local file'
            ) from error
    return file
