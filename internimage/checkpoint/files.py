"""Checkpoint files and folders: read safely, written whole or not at all.

Nothing here ever runs code out of a checkpoint: `torch.load(weights_only=True)` and safetensors are the only ways in.
"""

import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from mmengine.utils import apply_to
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .names import official_to_ours

# Where a file keeps its weights: OpenMMLab, official InternImage classification, DeepSpeed. A file without any of these
# holds the weights themselves.
WEIGHTS = ('state_dict', 'model', 'module')
# Where averaged weights (EMA) stand beside them: timm, official InternImage classification, mmengine.
AVERAGES = ('state_dict_ema', 'model_ema', 'ema_state_dict')
# What wrappers put before every name: data parallel, torch.compile, Hugging Face.
PREFIXES = ('module.', '_orig_mod.', 'model.', 'internimage.')
# What a wrapper that averages counts beside the weights: mmengine, torch.
COUNTERS = ('steps', 'n_averaged')
# What a Hugging Face folder keeps its weights in, the first that is there.
FOLDER_FILES = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used. The message is one line that names the file and says why."""


def read_checkpoint(path, map_location='cpu', ema: bool = False) -> dict:
    """Everything that a checkpoint holds, its weights always under `'state_dict'` and by our names.

    `path` is a file (.safetensors, or what `torch.save` wrote), a Hugging Face folder (`model.safetensors` or
    `pytorch_model.bin`, in one piece or in shards; `config.json` is returned under `'config'`), or an http(s) address
    that is fetched once into torch's hub folder. Files are mapped into memory, not copied: a tensor is read from the
    disk when it is used.

    The weights may stand in the file under `'state_dict'` (OpenMMLab), `'model'` (official InternImage classification)
    or `'module'` (DeepSpeed), or be the file itself. Prefixes that all names share (`module.`, `model.`, ...) are taken
    off, and official names of DINO, Mask2Former and Hugging Face become ours (`official_to_ours`).

    Args:
        ema: the averaged weights of a file that has them beside the others. Where a file holds nothing else they are
            taken anyway; mmengine keeps the average in `state_dict` itself.

    Raises:
        CheckpointError: no such file, not readable, not a checkpoint, cut short, holds no weights, or holds objects of
            a class that is neither a tensor nor what OpenMMLab stores (loading it could run any code).
    """
    path = local_path(path)
    content = _read_folder(path, map_location) if path.is_dir() else _read_file(path, map_location)
    content = dict(content) if isinstance(content, Mapping) else {}
    key = _weights_key(content, ema, path)
    weights = content.pop(key) if key else content
    weights = {name: value for name, value in weights.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not weights:
        raise CheckpointError(f'checkpoint {path} holds no weights')
    return {**(content if key else {}), 'state_dict': official_to_ours(_plain_names(weights, path))}


def read_state_dict(path) -> dict[str, Tensor]:
    """The weights alone of `path`, on the CPU. Accepts and raises what `read_checkpoint` does."""
    return read_checkpoint(path)['state_dict']


def write_checkpoint(path, state_dict: Mapping[str, Tensor], meta: Mapping | None = None, key='state_dict') -> None:
    """Writes weights to a .pth or .safetensors file: all of it, or nothing.

    Args:
        meta: written beside the weights; of it a .safetensors file keeps `dataset_meta` alone.
        key: under which the weights stand in a .pth file.

    Raises:
        CheckpointError: another kind of file, or it cannot be written (no permission, disk full); a file that was
            there before is then as it was.
    """
    path = Path(path).expanduser()
    if path.suffix not in ('.pth', '.safetensors'):
        raise CheckpointError(f'checkpoint {path} must end in .pth or .safetensors to be written')
    part = path.with_name(f'.part-{os.getpid()}-{path.name}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.pth':
            with part.open('wb') as file:
                torch.save({'meta': dict(meta or {}), key: dict(state_dict)}, file)
        else:
            known = dataset_meta({'meta': meta})
            text = {'meta': json.dumps({'dataset_meta': known})} if known else {}
            save_file(_unshared(state_dict), part, {'format': 'pt', **text})
        os.replace(part, path)
    except Exception as error:  # OSError, and what torch and safetensors make of it
        raise CheckpointError(f'checkpoint {path} cannot be written: {_first_line(error)}') from error
    finally:
        part.unlink(missing_ok=True)


def dataset_meta(checkpoint: Mapping) -> dict:
    """`classes` and `palette` that a checkpoint names, as lists; without those it does not name."""
    meta = checkpoint.get('meta') or {}
    meta = meta.get('dataset_meta') or meta  # OpenMMLab 2 wrote CLASSES and PALETTE into `meta` itself
    known = {key.lower(): value for key, value in meta.items() if key.lower() in ('classes', 'palette')}
    return {key: np.asarray(value).tolist() for key, value in known.items() if value is not None and len(value)}


def local_path(path) -> Path:
    """`path` as a local one; what stands behind an http(s) address is fetched once into torch's hub folder."""
    path = str(path)
    if not path.startswith(('http://', 'https://')):
        return Path(path).expanduser()
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


@CheckpointLoader.register_scheme(('', 'http://', 'https://'), force=True)
def _read_for_mmengine(filename, map_location=None) -> dict:
    """mmengine reads through here (`load_from`, `resume`, `init_cfg`): every form that is known here, and never falling
    back to running what a file holds, as mmengine's own loader does."""
    checkpoint = read_checkpoint(filename, map_location)
    if 'optimizer' in checkpoint:
        # Unlike weights, which are copied into the model, this becomes the optimizer's own: it must not hang on a file
        # that a training may write again.
        checkpoint['optimizer'] = apply_to(checkpoint['optimizer'], torch.is_tensor, torch.clone)
    return checkpoint


def _safe_globals() -> list:
    """What a training run of OpenMMLab stores beside tensors: numpy numbers and arrays, and the history of its logs.
    And the settings (yacs) that the official classification stores."""
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    functions = [multiarray.scalar, multiarray._reconstruct]
    # numpy 2 renamed numpy.core: a file written under either name is read under both.
    renamed = [
        (function, f'numpy.{core}.multiarray.{function.__name__}')
        for function in functions
        for core in ('core', '_core')
    ]
    dtypes = {type(np.dtype(code)) for code in '?' + np.typecodes['AllInteger'] + np.typecodes['AllFloat']}
    return [
        HistoryBuffer,
        (_history_getattr, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *dtypes,
        *renamed,
        (_Settings, 'yacs.config.CfgNode'),
    ]


def _history_getattr(owner, name: str):
    """Stands in for `getattr`, by which a HistoryBuffer refers to its statistics; for anything else that is a way
    around the list."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UnpicklingError(f'GLOBAL getattr({owner}, {name!r})')
    return getattr(owner, name)


class _Settings(dict):
    """Stands in for the class of yacs, which is not needed here."""


def _read_file(path: Path, map_location):
    try:
        with path.open('rb'):
            pass
    except FileNotFoundError as error:
        raise CheckpointError(f'checkpoint {path} does not exist') from error
    except OSError as error:
        raise CheckpointError(f'checkpoint {path} cannot be read: {error.strerror}') from error
    try:
        if path.suffix == '.safetensors':
            return _read_safetensors(path, map_location)
        with torch.serialization.safe_globals(_safe_globals()):
            # The form before torch 1.6, no zip file, cannot be mapped.
            mmap = zipfile.is_zipfile(path)
            return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError here
        offender = re.search(r'GLOBAL (\S+)', str(error))
        if offender:
            name = offender[1]
            why = (
                f'is not safe to load: it holds {name}, which is neither weights nor training state. If you trust the '
                f'file and {name} is a class, allow it in Python: torch.serialization.add_safe_globals([{name}])'
            )
        else:
            why = f'is not a checkpoint or is cut short ({type(error).__name__}: {_first_line(error)})'
        raise CheckpointError(f'checkpoint {path} {why}') from error


def _read_safetensors(path: Path, map_location) -> dict:
    with safe_open(path, framework='pt', device='cpu') as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        meta = (file.metadata() or {}).get('meta')
    if map_location not in (None, 'cpu'):
        weights = {name: value.to(map_location) for name, value in weights.items()}
    return {'state_dict': weights, **({'meta': json.loads(meta)} if meta else {})}


def _read_folder(folder: Path, map_location) -> dict:
    name = next((name for name in FOLDER_FILES if (folder / name).exists()), None)
    if name is None:
        raise CheckpointError(f'checkpoint {folder} is a folder without {FOLDER_FILES[0]} or {FOLDER_FILES[2]}')
    weights = {}
    for file in sorted(set(_read_json(folder / name)['weight_map'].values())) if name.endswith('.json') else [name]:
        if Path(file).name != file:
            raise CheckpointError(f'checkpoint {folder / name} names {file!r}, which is not a file of its folder')
        content = _read_file(folder / file, map_location)
        content = content if isinstance(content, Mapping) else {}
        weights.update(content.get('state_dict', content))
    config = folder / 'config.json'
    return {'state_dict': weights, **({'config': _read_json(config)} if config.exists() else {})}


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f'checkpoint: {path} cannot be read: {_first_line(error)}') from error


def _unshared(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor contiguous and in a memory of its own, as safetensors wants it."""
    seen, weights = set(), {}
    for name, value in state_dict.items():
        memory = value.untyped_storage().data_ptr()
        weights[name] = value.clone() if memory in seen else value.contiguous()
        seen.add(memory)
    return weights


def _weights_key(content: dict, ema: bool, path: Path) -> str | None:
    """Under which key the weights stand; None where `content` is the weights."""
    plain = [key for key in WEIGHTS if isinstance(content.get(key), Mapping)]
    averaged = [key for key in AVERAGES if isinstance(content.get(key), Mapping)]
    if 'state_dict' in plain and 'ema_state_dict' in averaged:
        return 'state_dict'  # mmengine: the average, and the plain weights stand under the other key
    if ema and not averaged:
        raise CheckpointError(f'checkpoint {path} holds no averaged weights: none of {", ".join(AVERAGES)}')
    if plain and averaged and not ema:
        print_log(f'checkpoint {path}: {averaged[0]} (averaged weights) not used, {plain[0]} taken', logger='current')
    return next(iter([*averaged, *plain] if ema else [*plain, *averaged]), None)


def _plain_names(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The names as the model itself has them."""
    while True:
        own = {name: value for name, value in weights.items() if name not in COUNTERS}
        prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in own)), None)
        if prefix is None or not own:
            break
        weights = {name.removeprefix(prefix): value for name, value in own.items()}
    # mmcv 1 kept a second set of weights as buffers of the model, the dots of the names as underscores.
    buffers = {'ema_' + name.replace('.', '_') for name in weights} & weights.keys()
    if buffers:
        print_log(f'checkpoint {path}: {len(buffers)} buffers ema_* of mmcv not used', logger='current')
    return {name: value for name, value in weights.items() if name not in buffers}


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().split('\n')[0].split('. ')[0]
