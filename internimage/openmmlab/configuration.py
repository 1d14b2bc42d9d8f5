"""Reading configs: options of the command line, moving the data, settings by name and `classes`."""

import posixpath
import re
from difflib import get_close_matches
from os.path import expanduser
from pathlib import Path

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from .cfg_options import ConfigError, merge_options
from .nodes import SPLITS, config_folder, dicts, leaf_datasets, type_name  # noqa: F401  (for those who read configs)
from .settings import SETTINGS, apply_settings, put_setting, stated_names, update_variables

# Arguments of OpenMMLab's heads that hold a number of classes.
CLASS_COUNTS = {'num_classes', 'num_things_classes', 'num_stuff_classes'}
# The fields of data sets and evaluators that hold paths to read from, and those that look alike and are written to.
PATH_FIELD = re.compile(r'(?!out).*(?:^|_)(?:root|files?|prefix|paths?|dir|folder)')
# Parts of a config that name files other than data.
NO_DATA = {'model', 'tta_model', 'load_from', 'work_dir', 'default_hooks', 'custom_hooks', 'visualizer', 'vis_backends'}
ABSOLUTE = re.compile(r'/|[A-Za-z]:|.*://')


def load_config(path: str, options: dict | None = None, launcher: str = 'none', work_dir: str | None = None) -> Config:
    """The config file with the command line's options in it: keys and values as `merge_options` takes them.

    `data_root` moves all data, see `move_data`; a name of `settings.SETTINGS` moves every place that depends on it;
    keys with dots change one place and come last. `work_dir`: given, else the config's, else by the config's name.

    Raises:
        ConfigError: the file is missing or not a config, or an option is wrong.
    """
    path = find_config(path)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is Python, and raises whatever Python does
        raise ConfigError(f'config {path}: {type(error).__name__}: {error}') from error
    if 'internimage' in _imports(cfg):
        raise ConfigError(
            f"config {path}: custom_imports names 'internimage', which registers nothing: write "
            "custom_imports = dict(imports=['internimage.openmmlab'])"
        )
    options = dict(options or {})
    try:
        if 'launcher' in options:
            raise ConfigError('launcher is an option of its own: --launcher')
        apply_own_variables(cfg)
        if 'data_root' in options and 'data_root' in cfg:
            if not isinstance(options['data_root'], (str, int)):  # a folder may be called 2017
                raise ConfigError(f'data_root must be one folder, got {options["data_root"]!r}')
            options['data_root'] = str(options['data_root'])
            move_data(cfg, options['data_root'])
        for name in [name for name in SETTINGS if name in options]:
            put_setting(cfg, name, options.pop(name))
        merge_options(cfg, options)
        update_variables(cfg)
        if any(key.removeprefix('+').startswith('custom_imports') for key in options) and cfg.custom_imports:
            import_modules_from_strings(**cfg.custom_imports)
        apply_classes(cfg)
    except (ValueError, ImportError) as error:
        raise ConfigError(f'config {path}: {error}') from error
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(path).stem))
    return cfg


def find_config(name: str) -> str:
    """The file of a config: a path, or the name of one that comes with the package, with or without its folder.

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(name)
    if path.is_file():
        return name
    folder = config_folder()
    if path.suffix in ('', '.py') and not path.is_absolute():
        inside = path.with_suffix('.py')
        found = [folder / inside] if (folder / inside).is_file() else sorted(folder.glob(f'[!_]*/{inside}'))
        if found and len(inside.parts) <= 2:
            return str(found[0])
    raise ConfigError(f'config {name} does not exist{_neighbours(path)}')


def _imports(cfg: Config) -> list[str]:
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    return [imports] if isinstance(imports, str) else list(imports)


def apply_variables(cfg: Config) -> None:
    """Applies what the config's own files state by name at their top: `data_root`, settings, `classes`. A second call
    does nothing more.

    Raises:
        ValueError: a value is wrong.
    """
    apply_own_variables(cfg)
    apply_classes(cfg)


def apply_own_variables(cfg: Config) -> None:
    """The settings and the `data_root` of the config's own files, see `settings.stated_names`; not yet `classes`."""
    names, base = stated_names(cfg.filename)
    if 'data_root' in names:
        new, cfg.data_root = cfg.data_root, Config.fromfile(base).get('data_root')
        if cfg.data_root not in (None, new):
            move_data(cfg, new, required=False)
        cfg.data_root = new
    apply_settings(cfg, names)


def move_data(cfg: Config, new: str, required: bool = True) -> None:
    """Moves every path of the data sets and evaluators that is the config's `data_root`, or is below it, to `new`.

    The variables that these were made of move with them, and nothing else of the config. Below the current folder (''
    or '.') is every relative path, but for those that a data set with a `data_root` of its own states relative to that.

    Raises:
        ConfigError: there is no such path, if that is `required`.
    """
    old, moved = cfg.data_root or '', 0

    def move(value, joined: bool):
        nonlocal moved
        if isinstance(value, dict):
            return type(value)({key: move(child, joined) for key, child in value.items()})
        if isinstance(value, (list, tuple)):
            return type(value)(move(child, joined) for child in value)
        below = _below(value, old) if isinstance(value, str) and value and not joined else None
        moved += below is not None
        return value if below is None else posixpath.join(new, below) if below else new

    def walk(node) -> None:
        if isinstance(node, (list, tuple)):
            for child in node:
                walk(child)
        elif isinstance(node, dict):
            joined = node.get('data_root') is not None  # by the data set, to the paths beside it
            for key, value in node.items():
                if key == 'data_root':
                    node[key] = move('.' if value == '' and _path(old) == '.' else value, False)
                elif PATH_FIELD.fullmatch(key):
                    node[key] = move(value, joined and _path(old) == '.')
                elif key != 'pipeline' or _path(old) != '.':
                    walk(value)

    for split in SPLITS:
        walk((cfg.get(f'{split}_dataloader') or {}).get('dataset'))
        walk(cfg.get(f'{split}_evaluator'))
    read = moved
    # Variables of the file that the loaders were made of: nothing reads them, but a dump shows them.
    for key, value in cfg._cfg_dict.items():
        if key not in NO_DATA and not key.startswith(SPLITS):
            walk(value)
    if not read and required:
        raise ConfigError(f'no data set and no evaluator reads from data_root {old!r}: set the paths themselves')


def _below(path: str, root: str) -> str | None:
    """`path` relative to the folder `root`: '' for the folder itself, None where it is not below."""
    path, root, slash = _path(path), _path(root), '/' if path.endswith(('/', '\\')) else ''
    if path == root:
        return ''
    if root == '.':
        return None if ABSOLUTE.match(path) or path == '..' or path.startswith('../') else path + slash
    root = root.rstrip('/') + '/'
    return path.removeprefix(root) + slash if path.startswith(root) else None


def _path(text: str) -> str:
    """A path in one way of writing: forward slashes, no './', no slash at the end; '.' for the current folder."""
    return text.rstrip('/') if '://' in text else posixpath.normpath(expanduser(text.replace('\\', '/')))


def _neighbours(path: Path) -> str:
    """The files with names most like that of a config that does not exist: beside it, and in ./configs."""
    names = {file.name: file for folder in (path.parent.glob('*.py'), config_folder().rglob('*.py')) for file in folder}
    alike = get_close_matches(path.name, names, n=2, cutoff=0.8)
    return f': did you mean {" or ".join(str(names[name]) for name in alike)}?' if alike else ''


def apply_classes(cfg: Config) -> None:
    """A config's top-level `classes`, the names in the order of their indices, sets them everywhere.

    Every head's number of classes (of Mask2Former all are "things", and the weights of its loss are of that length),
    and the classes of every data set.

    Raises:
        ValueError: `classes` is not a list of different names.
    """
    if 'classes' not in cfg:
        return
    classes = cfg.classes
    if not isinstance(classes, (list, tuple)) or not classes or len(set(map(str, classes))) < len(classes):
        raise ValueError(f'classes must be a list of different names, got {classes!r}')
    counts = {'num_classes': len(classes), 'num_things_classes': len(classes), 'num_stuff_classes': 0}
    for node in dicts(cfg.model):
        weights = (node.get('loss_cls') or {}).get('class_weight')
        if 'num_classes' in node and isinstance(weights, list):  # of each class, and of "no object"
            node['loss_cls']['class_weight'] = weights[:1] * len(classes) + weights[-1:]
        node.update({key: counts[key] for key in CLASS_COUNTS & node.keys()})
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        for dataset in leaf_datasets(loader.dataset) if loader else ():
            metainfo = dict(dataset.get('metainfo') or {}, classes=tuple(classes))
            if len(metainfo.get('palette', classes)) != len(classes):
                del metainfo['palette']  # mmdet and mmseg make one
            dataset['metainfo'] = metainfo


def _find_base(cfg_path: str, filename: str) -> tuple[str, str | None]:
    """mmengine's `Config._get_cfg_path`, for `_base_ = 'internimage::NAME'` too: a config that comes with the package,
    with or without its folder."""
    package, _, name = cfg_path.partition('::')
    if package == 'internimage' and name:
        return str(Path(find_config(name)).resolve()), None
    return _mmengine_get_cfg_path(cfg_path, filename)


_mmengine_get_cfg_path = Config._get_cfg_path
Config._get_cfg_path = staticmethod(_find_base)
