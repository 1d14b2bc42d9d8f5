"""Checkpoint files and folders: read safely, written whole or not at all.

Nothing here ever runs code out of a checkpoint: `torch.load(weights_only=True)`, after `check_pickle`, and safetensors
are the only ways in.
"""

import io
import json
import logging
import os
import stat
import sys
import threading
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .._compat import read_record
from ..files import whole_file
from .download import fetch, is_address
from .names import official_to_ours
from .official import official_address
from .pickles import UnsafePickle, check_pickle, plain, safe_globals
from .text import CheckpointError, printable

logger = logging.getLogger('internimage')

# Where a file keeps its weights: OpenMMLab, official InternImage classification, DeepSpeed. A file without any of these
# holds the weights themselves.
WEIGHTS = ('state_dict', 'model', 'module')
# Keys under which averaged weights (EMA) are stored beside the others: timm, official InternImage classification,
# mmengine.
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

# Palettes that mmdet's visualizer knows by a word.
NAMED_PALETTES = ('random', 'coco', 'citys', 'voc')
LARGEST_JSON = 100_000_000  # bytes
# The list of what torch may call belongs to the whole process: one reader at a time changes it.
READING = threading.Lock()


def read_checkpoint(path, map_location='cpu', ema: bool = False) -> dict:
    """Everything that a checkpoint holds, its weights always under `'state_dict'` and by our names.

    `path` is a file (.safetensors, or what `torch.save` wrote), a Hugging Face folder (`model.safetensors` or
    `pytorch_model.bin`, in one piece or in shards; `config.json` is returned under `'config'`), or an http(s) address
    or the name of an official file, which are fetched once into torch's hub folder (`local_path`). Files are mapped
    into memory, not copied: a tensor is read from the disk when it is used.

    The weights may be stored in the file under `'state_dict'` (OpenMMLab), `'model'` (official InternImage
    classification) or `'module'` (DeepSpeed), or be the file itself. Prefixes that all names share (`module.`,
    `model.`, ...) are taken off, and official names of DINO, Mask2Former and Hugging Face become ours
    (`official_to_ours`).

    Args:
        ema: the averaged weights of a file that has them beside the others. Where a file holds nothing else they are
            taken anyway; mmengine keeps the average in `state_dict` itself.

    Raises:
        CheckpointError: no such file, not a regular file, not readable, not a checkpoint, cut short, holds no weights,
            or holds objects of a class that is neither a tensor nor what OpenMMLab stores (loading it could run any
            code), or sizes that the file does not have.
    """
    path = local_path(path)
    folder = stat.S_ISDIR(_status(path).st_mode)
    content = _read_folder(path, map_location) if folder else _read_file(path, map_location)
    content = dict(content) if isinstance(content, Mapping) else {}
    key = _weights_key(content, ema, path)
    if key and not _empty(content.get('meta')) and not isinstance(content['meta'], Mapping):
        raise CheckpointError(f'checkpoint {path}: meta is {_shown(content["meta"])}, not a dict')
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
        key: under which a .pth file stores the weights.

    Raises:
        CheckpointError: another kind of file, or it cannot be written (no permission, disk full); a file that was
            there before is then as it was.
    """
    path = Path(path).expanduser()
    if path.suffix not in ('.pth', '.safetensors'):
        raise CheckpointError(f'checkpoint {path} must end in .pth or .safetensors to be written')
    try:
        with whole_file(path) as part:
            if path.suffix == '.pth':
                with part.open('wb') as file:
                    torch.save({'meta': dict(meta or {}), key: dict(state_dict)}, file)
            else:
                known = dataset_meta({'meta': meta}, path)
                text = {'meta': json.dumps({'dataset_meta': known})} if known else {}
                save_file(_unshared(state_dict), part, {'format': 'pt', **text})
    except Exception as error:  # OSError, and what torch and safetensors make of it
        raise CheckpointError(f'checkpoint {path} cannot be written: {_first_line(error)}') from error


def dataset_meta(checkpoint: Mapping, path='') -> dict:
    """`classes` (a list of names) and `palette` (a list of RGB tuples, one per class) of a checkpoint, as far as it has
    them. A palette that is a word of mmdet's is left out: whoever draws makes one for the number of classes.

    Args:
        path: the file, for the errors.

    Raises:
        CheckpointError: the classes are not a list of names, or the palette is not a list of colours.
    """
    where = f'checkpoint {path}'.strip()
    meta = checkpoint.get('meta')
    for inner in (None, 'dataset_meta'):  # OpenMMLab 2 wrote CLASSES and PALETTE into `meta` itself
        meta = meta if inner is None or _empty(meta.get(inner)) else meta[inner]
        if _empty(meta):
            return {}
        if not isinstance(meta, Mapping):
            raise CheckpointError(f'{where}: {inner or "meta"} is {_shown(meta)}, not a dict')
    found = {key.lower(): value for key, value in meta.items() if isinstance(key, str) and not _empty(value)}
    known = {}
    if 'classes' in found:
        classes = found['classes'].tolist() if isinstance(found['classes'], np.ndarray) else found['classes']
        if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes):
            raise CheckpointError(f'{where}: classes of its dataset_meta are {_shown(classes)}, not a list of names')
        known['classes'] = [printable(name) for name in classes]
    palette = found.get('palette')
    if palette is not None and not (isinstance(palette, str) and palette in NAMED_PALETTES):
        known['palette'] = _colors(palette, where)
        if len(known['palette']) < len(known.get('classes', ())):
            logger.warning(
                '%s: its palette of %d colours for %d classes is not used',
                where,
                len(known.pop('palette')),
                len(known['classes']),
            )
    return known


def _colors(palette, where: str) -> list[tuple[int, int, int]]:
    colors = palette.tolist() if isinstance(palette, (np.ndarray, Tensor)) else palette
    try:
        if isinstance(colors, (str, bytes, Mapping)):
            raise TypeError
        colors = [tuple(color) for color in colors]
        numbers = [tuple(map(int, color)) for color in colors]
        fine = all(len(color) == 3 and min(color) >= 0 and max(color) <= 255 for color in numbers) and numbers == colors
    except (TypeError, ValueError, OverflowError):  # not a list of lists, not numbers, not a whole number
        fine = False
    if not fine:
        raise CheckpointError(f'{where}: palette of its dataset_meta is {_shown(palette)}, not a list of (R, G, B)')
    return numbers


def _empty(value) -> bool:
    if isinstance(value, (np.ndarray, Tensor)):
        return 0 in value.shape
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and not value)


def _shown(value) -> str:
    return printable(
        f'{type(value).__name__} {value!r:.200}'
        if isinstance(value, (str, int, float))
        else f'a {type(value).__name__} with {str(value)[:80]}'
    )


def check_finite(weights: Mapping[str, Tensor], path) -> None:
    """Are all weights of the file `path` numbers? Each is read once, none is copied.

    Raises:
        CheckpointError: some are NaN or infinite; says in how many tensors, and names the first.
    """
    broken = [name for name, value in weights.items() if not _is_finite(value)]
    if broken:
        raise CheckpointError(
            f'checkpoint {path}: {len(broken)} of {len(weights)} tensors hold NaN or infinite values, the first is '
            f'{printable(broken[0])}. A training that diverged leaves such a file: take an earlier one'
        )


def _is_finite(value: Tensor) -> bool:
    if value.is_complex():
        value = torch.view_as_real(value)
    if not value.is_floating_point() or value.numel() == 0 or value.is_meta:
        return True
    if value.element_size() == 1:  # float8 has no comparison
        value = value.float()
    least, most = torch.aminmax(value.detach())
    return bool(torch.isfinite(least) & torch.isfinite(most))


def local_path(path) -> Path:
    """`path` as a local path; the file at an http(s) address is downloaded once, see `fetch`.

    The bare name of an official file, such as `mask_rcnn_internimage_t_fpn_1x_coco.pth`, stands for its address where
    no file has that name in the current folder.
    """
    path = official_address(path) or path
    if is_address(path):
        return fetch(str(path))
    try:
        return Path(path).expanduser()
    except (RuntimeError, TypeError) as error:  # there is no such user
        raise CheckpointError(f'checkpoint {path} cannot be read: {error}') from error


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError as error:
        raise CheckpointError(f'checkpoint {path} does not exist') from error
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
        raise CheckpointError(f'checkpoint {path} cannot be read: {_first_line(error)}') from error


def _size(path: Path) -> int:
    """Bytes of a regular file; reading a pipe or a device could go on for ever."""
    status = _status(path)
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f'checkpoint {path} is not a regular file')
    try:
        with path.open('rb'):
            pass
    except OSError as error:
        raise CheckpointError(f'checkpoint {path} cannot be read: {error.strerror}') from error
    if status.st_size == 0:  # also what Linux says of its own files, some of which do not end
        raise CheckpointError(f'checkpoint {path} is not a checkpoint or is cut short: it is empty')
    return status.st_size


def _read_file(path: Path, map_location):
    size = _size(path)
    try:
        if path.suffix == '.safetensors':
            return _read_safetensors(path, map_location)
        return _read_pickled(path, size, map_location)
    except CheckpointError:
        raise
    except UnsafePickle as error:
        if error.name is None:
            why = f'is not a checkpoint or is cut short: it {error}'
        else:
            why = f'is not safe to load: it holds {printable(error.name)}, which is neither weights nor training state'
            if _is_class(error.name):
                why += (
                    '. If you trust the file, allow it in Python: '
                    f'torch.serialization.add_safe_globals([{printable(error.name)}])'
                )
        raise CheckpointError(f'checkpoint {path} {why}') from error
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError here
        why = f'is not a checkpoint or is cut short ({type(error).__name__}: {_first_line(error)})'
        raise CheckpointError(f'checkpoint {path} {why}') from error


def _read_pickled(path: Path, size: int, map_location):
    with READING:
        own = torch.serialization.get_safe_globals()
        allowed = {item[1] if isinstance(item, tuple) else f'{item.__module__}.{item.__qualname__}' for item in own}
        with path.open('rb') as file:
            # As torch tells them apart. The form before torch 1.6, no zip file, cannot be mapped.
            zipped = file.read(4) == b'PK\x03\x04'
            file.seek(0)
            if zipped:
                sizes = _storage_sizes(path, size)
                record = read_record(path, 'data.pkl')
                check_pickle(io.BytesIO(record), allowed, size, sizes)
            else:
                for _ in range(5):  # a magic number, the version, the machine, the content, the keys of the storages
                    check_pickle(file, allowed, size)
        with torch.serialization.safe_globals([item for item in safe_globals() if item not in own]):
            content = torch.load(path, map_location=map_location, weights_only=True, mmap=zipped)
    return plain(content, tuple(item for item in own if isinstance(item, type)))


def _storage_sizes(path: Path, size: int) -> dict[str, int]:
    """Bytes of each storage. torch.save never compresses: no small file becomes large in memory."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UnsafePickle('is a compressed zip file, which torch.save does not write')
    if sum(entry.file_size for entry in entries) > size:
        raise UnsafePickle('lists more bytes than the file has')
    parts = [(entry.filename.split('/', 2), entry.file_size) for entry in entries]
    return {names[2]: bytes_ for names, bytes_ in parts if len(names) == 3 and names[1] == 'data'}


def _is_class(name: str) -> bool:
    """Could the user want to allow it? Only a class of an installed package, never what Python or torch bring."""
    package, last = name.split('.')[0], name.rsplit('.', 1)[-1]
    if package in (*sys.stdlib_module_names, 'torch', 'numpy', '__main__', '__builtin__') or not last[:1].isupper():
        return False
    try:
        return package in sys.modules or find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _read_safetensors(path: Path, map_location) -> dict:
    with safe_open(path, framework='pt', device='cpu') as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        meta = (file.metadata() or {}).get('meta')
    if map_location not in (None, 'cpu'):
        weights = {name: value.to(map_location) for name, value in weights.items()}
    return {'state_dict': weights, **({'meta': _parse_json(meta, f'{path}: meta')} if meta else {})}


def _read_folder(folder: Path, map_location) -> dict:
    name = next((name for name in FOLDER_FILES if os.path.lexists(folder / name)), None)
    if name is None:
        raise CheckpointError(f'checkpoint {folder} is a folder without {FOLDER_FILES[0]} or {FOLDER_FILES[2]}')
    weights = {}
    for file in _shards(folder / name) if name.endswith('.json') else [name]:
        content = _read_file(folder / file, map_location)
        content = content if isinstance(content, Mapping) else {}
        weights.update(content.get('state_dict', content))
    config = folder / 'config.json'
    return {'state_dict': weights, **({'config': _read_json(config)} if os.path.lexists(config) else {})}


def _shards(index: Path) -> list[str]:
    """The files of its folder that an index.json names."""
    shards = _read_json(index).get('weight_map')
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise CheckpointError(f'checkpoint {index} has no weight_map from names of weights to names of files')
    files = sorted(set(shards.values()))
    for file in files:
        if Path(file).name != file or not file:
            raise CheckpointError(f'checkpoint {index} names {_shown(file)}, which is not a file of its folder')
    return files


def _read_json(path: Path) -> dict:
    if _size(path) > LARGEST_JSON:
        raise CheckpointError(f'checkpoint {path} has {_size(path)} bytes, too many for a JSON file')
    try:
        text = path.read_text(encoding='utf-8-sig')
    except (OSError, ValueError) as error:
        raise CheckpointError(f'checkpoint {path} cannot be read: {_first_line(error)}') from error
    return _parse_json(text, path)


def _parse_json(text: str, where) -> dict:
    try:
        content = plain(json.loads(text))
    except RecursionError as error:
        raise CheckpointError(f'checkpoint {where} cannot be read: it nests its values too deep') from error
    except (ValueError, UnsafePickle) as error:
        raise CheckpointError(f'checkpoint {where} cannot be read: {_first_line(error)}') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'checkpoint {where} is {_shown(content)}, not a JSON object')
    return content


def _unshared(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor contiguous and not sharing its storage, as safetensors requires."""
    seen, weights = set(), {}
    for name, value in state_dict.items():
        value = value.contiguous()
        memory = value.untyped_storage().data_ptr()
        weights[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return weights


def _weights_key(content: dict, ema: bool, path: Path) -> str | None:
    """The key under which `content` stores the weights; None if `content` itself is the weights."""
    current = [key for key in WEIGHTS if isinstance(content.get(key), Mapping)]
    averaged = [key for key in AVERAGES if isinstance(content.get(key), Mapping)]
    if 'state_dict' in current and 'ema_state_dict' in averaged:
        return 'state_dict'  # mmengine: the average; the plain weights are under the other key
    if ema and not averaged:
        raise CheckpointError(f'checkpoint {path} holds no averaged weights: none of {", ".join(AVERAGES)}')
    if current and averaged and not ema:
        logger.info('checkpoint %s: %s (averaged weights) not used, %s taken', path, averaged[0], current[0])
    return next(iter([*averaged, *current] if ema else [*current, *averaged]), None)


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
        logger.info('checkpoint %s: %d buffers ema_* of mmcv not used', path, len(buffers))
    return {name: value for name, value in weights.items() if name not in buffers}


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(str(error).strip().split('\n')[0].split('. ')[0], 300)
