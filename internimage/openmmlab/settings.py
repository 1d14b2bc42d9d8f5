"""Settings by name: `image_scale`, `batch_size`, `lr`, `max_epochs` ... in a config or after --cfg-options.

One name moves every place of the config that depends on it: `--cfg-options image_scale="(640,480)"` the resizing of all
pipelines. A file whose `_base_` is a config of this package may state them at its top, as it states `classes`.
"""

import ast
import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from .cfg_options import ConfigError
from .nodes import SPLITS, config_folder, dicts, leaf_datasets, type_name

LABEL_MAPS = 'LabelMapDataset'
RESIZES = {'Resize', 'RandomResize', 'RandomChoiceResize', 'FixScaleResize'}


class Setting(NamedTuple):
    """`get(cfg)`: the value in force, None where the config has none. `put(cfg, value, old)` sets it everywhere."""

    get: Callable[[Config], Any]
    put: Callable[[Config, Any, Any], None]
    kind: str  # of the value: see _KINDS


def put_setting(cfg: Config, name: str, value) -> None:
    """Sets one of SETTINGS at every place of the config that depends on it.

    Raises:
        ConfigError: the value is of another kind, or the config has nothing of that name.
    """
    setting = SETTINGS[name]
    what, fits = _KINDS[setting.kind]
    value = list(value) if isinstance(value, tuple) and setting.kind == 'numbers' else value
    if setting.kind in ('size', 'numbers') and _is_number(value):
        value = (value, value) if setting.kind == 'size' else [value]
    if not fits(value):
        raise ConfigError(f'{name} must be {what}, got {value!r}')
    if setting.kind == 'size':
        value = tuple(value)
    old = setting.get(cfg)
    if old is None:
        raise ConfigError(f'{name}: {_WHY_NOT.get(name, "this config has nothing of that name")}')
    if not _equal(old, value):
        setting.put(cfg, value, old)
    cfg[name] = value


def apply_settings(cfg: Config, names: set[str]) -> None:
    """Applies the settings of these names that the config states at its top. Those that are in force already change
    nothing, so that a second call does nothing."""
    for name in SETTINGS:  # in this order: files of annotations after their folders
        if name in names and name in cfg:
            put_setting(cfg, name, cfg[name])


def update_variables(cfg: Config) -> None:
    """Makes the variables of the config that bear the name of a setting say what is in force."""
    for name, setting in SETTINGS.items():
        if name in cfg and (value := setting.get(cfg)) is not None:
            cfg[name] = value


def stated_names(filename: str | None) -> tuple[set[str], str | None]:
    """The top-level names that a config's own files assign, and the config of this package that they are based on.

    Own files are those outside the package in the chain of `_base_`. No names and None where they are based on no
    config of the package: other people's configs may mean something else by a name.
    """
    names, todo, base = set(), [filename], None
    while todo:
        path = todo.pop(0)
        if path is None or Path(path).suffix != '.py' or not Path(path).is_file():
            continue
        if config_folder() in Path(path).resolve().parents:
            base = base or path
            continue
        for node in ast.parse(Path(path).read_text(encoding='utf-8')).body:
            targets = node.targets if isinstance(node, ast.Assign) else ()
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        todo += [Config._get_cfg_path(file, path)[0] for file in Config._get_base_files(path)]
    return (names, base) if base is not None else (set(), None)


# --- the places


def pipelines(cfg: Config, *splits: str) -> Iterator[list]:
    """The pipelines of the data sets of the splits (default: all), those of wrappers too, and, of all splits, the
    variables that they were made of."""
    for split in splits or SPLITS:
        for node in dicts(cfg.get(f'{split}_dataloader')):
            if isinstance(node.get('pipeline'), list):
                yield node['pipeline']
    if not splits:
        yield from (value for key, value in cfg._cfg_dict.items() if key.endswith('pipeline') and key != 'tta_pipeline')


def _steps(cfg: Config, kinds: set[str], *splits: str) -> Iterator[dict]:
    seen = set()
    for pipeline in pipelines(cfg, *splits):
        for node in dicts(pipeline):
            if type_name(node) in kinds and id(node) not in seen:
                seen.add(id(node))
                yield node


def _crops(cfg: Config, *splits: str) -> Iterator[dict]:
    """Crops of a fixed size."""
    for step in _steps(cfg, {'RandomCrop'}, *splits):
        if step.get('crop_type', 'absolute') == 'absolute':
            yield step


def _image_scale(cfg: Config):
    for split in ('test', 'val', 'train'):
        for step in _steps(cfg, RESIZES, split):
            if _is_size(step.get('scale')):
                return tuple(step['scale'])
    return None


def _put_image_scale(cfg: Config, new: tuple, old: tuple) -> None:
    """Where other sizes than the image's are stated (several of them, parts of it), they keep their relation to it."""

    def moved(size):
        if not _is_size(size):
            return type(size)(moved(each) for each in size) if isinstance(size, (list, tuple)) else size
        return new if _equal(size, old) else _in_proportion(size, new, old)

    for step in _steps(cfg, RESIZES):
        for key in ('scale', 'scales'):
            if step.get(key):
                step[key] = moved(step[key])
    for step in _steps(cfg, {'RandomCrop'}):
        if step.get('crop_type') == 'absolute_range':
            step['crop_size'] = moved(tuple(step['crop_size']))


def _in_proportion(size, new, old) -> tuple:
    """`size` changed as the longer and the shorter side of `old` are to become those of `new`."""
    long, short = max(new) / max(old), min(new) / min(old)
    sides = [round(max(size) * long), round(min(size) * short)]
    return tuple(sides if size[0] >= size[1] else sides[::-1])


def _crop_size(cfg: Config):
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if preprocessor.get('size'):
        return tuple(preprocessor['size'])
    return next((tuple(step['crop_size']) for step in _crops(cfg, 'train')), None)


def _put_crop_size(cfg: Config, new: tuple, old: tuple) -> None:
    def moved(size):
        return (
            new
            if _equal(size, old)
            else tuple(max(1, round(s * n / o)) for s, n, o in zip(size, new, old, strict=True))
        )

    if (cfg.model.get('data_preprocessor') or {}).get('size'):
        cfg.model.data_preprocessor.size = new
    for step in _crops(cfg):
        step['crop_size'] = moved(step['crop_size'])
    sliding = cfg.model.get('test_cfg') or {}
    for key in ('crop_size', 'stride'):
        if sliding.get(key):
            sliding[key] = moved(sliding[key])


def _loop(key: str) -> Setting:
    def get(cfg):
        return (cfg.get('train_cfg') or {}).get(key)

    def put(cfg, new, old):
        """Schedules that end with the training end with the new one; steps keep their place in it."""
        cfg.train_cfg[key] = new
        cfg.train_cfg['val_interval'] = min(cfg.train_cfg.get('val_interval', 1), new)
        by_epoch = key == 'max_epochs'
        for scheduler in cfg.get('param_scheduler') or ():
            if scheduler.get('T_max') == old:
                scheduler['T_max'] = new
            if scheduler.get('by_epoch', True) != by_epoch:
                continue
            if scheduler.get('end') in (old, old + 1):
                scheduler['end'] += new - old
            elif not by_epoch and scheduler.get('begin', 0) == 0 and scheduler.get('end', 0) > new:
                scheduler['end'] = new // 10 + 1  # a warm-up longer than the training
            if not by_epoch and scheduler.get('begin', 0) >= new:
                scheduler['begin'] = new // 10
            if scheduler.get('milestones'):
                scheduler['milestones'] = [max(1, round(step * new / old)) for step in scheduler['milestones']]

    return Setting(get, put, 'count')


def _warmup(cfg: Config) -> dict | None:
    return next(
        (
            scheduler
            for scheduler in cfg.get('param_scheduler') or ()
            if type_name(scheduler) == 'LinearLR' and not scheduler.get('by_epoch', True) and not scheduler.get('begin')
        ),
        None,
    )


def _num_workers(cfg: Config):
    return (cfg.get('train_dataloader') or {}).get('num_workers')


def _put_num_workers(cfg: Config, new, old) -> None:
    for split in SPLITS:
        if cfg.get(f'{split}_dataloader'):
            cfg[f'{split}_dataloader'].num_workers = new


def _at(path: str, kind: str) -> Setting:
    """A setting that is one value of the config."""
    *parents, last = path.split('.')

    def node(cfg):
        for part in parents:
            cfg = (cfg or {}).get(part)
        return cfg or {}

    return Setting(lambda cfg: node(cfg).get(last), lambda cfg, new, old: node(cfg).update({last: new}), kind)


def _ignore_index(cfg: Config):
    head = _heads(cfg)
    return head[0].get('ignore_index', 255) if head else None


def _heads(cfg: Config) -> list[dict]:
    heads = [cfg.model.get('decode_head'), cfg.model.get('auxiliary_head')]
    heads = [head for each in heads for head in (each if isinstance(each, list) else [each])]
    return [head for head in heads if head]


def _put_ignore_index(cfg: Config, new, old) -> None:
    for node in (*_heads(cfg), *_steps(cfg, {'RandomCrop'}), *_evaluators(cfg, *SPLITS)):
        node['ignore_index'] = new
    cfg.model.data_preprocessor['seg_pad_val'] = new
    for split in SPLITS:
        for dataset in _datasets(cfg, split):
            dataset['ignore_index'] = new


def _label_values(cfg: Config):
    datasets = [dataset for split in SPLITS for dataset in _datasets(cfg, split)]
    if not datasets or not _heads(cfg):
        return None
    own = all(type_name(dataset) == LABEL_MAPS for dataset in datasets)
    return list(datasets[0].get('label_values') or ()) if own else f'those of {type_name(datasets[0])}'


def _put_label_values(cfg: Config, new, old) -> None:
    """Every data set becomes a `LabelMapDataset`; an empty list: the files hold the indices."""
    kept = {
        'data_root',
        'ann_file',
        'data_prefix',
        'img_suffix',
        'seg_map_suffix',
        'metainfo',
        'pipeline',
        'ignore_index',
    }
    for split in SPLITS:
        for dataset in _datasets(cfg, split):
            for key in dataset.keys() - kept:
                del dataset[key]
            dataset.update(type=LABEL_MAPS, label_values=list(new) or None)


def _of_label_maps(argument: str, default, kind: str) -> Setting:
    """An argument of the data sets of label maps."""

    def datasets(cfg):
        return [dataset for split in SPLITS for dataset in _datasets(cfg, split) if type_name(dataset) == LABEL_MAPS]

    def put(cfg, new, old):
        for dataset in datasets(cfg):
            dataset[argument] = new

    return Setting(lambda cfg: next((each.get(argument, default) for each in datasets(cfg)), None), put, kind)


def _anchors(key: str) -> Setting:
    def generators(cfg):
        return [node['anchor_generator'] for node in dicts(cfg.model) if (node.get('anchor_generator') or {}).get(key)]

    def put(cfg, new, old):
        for generator in generators(cfg):
            generator[key] = list(new)

    return Setting(lambda cfg: next((list(one[key]) for one in generators(cfg)), None), put, 'numbers')


def _evaluators(cfg: Config, *splits: str) -> Iterator[dict]:
    for split in splits:
        evaluators = cfg.get(f'{split}_evaluator') or []
        yield from [evaluators] if isinstance(evaluators, dict) else evaluators


def _datasets(cfg: Config, split: str) -> list[dict]:
    loader = cfg.get(f'{split}_dataloader')
    return list(leaf_datasets(loader.dataset)) if loader else []


def _of_data(split: str, names: tuple[str, ...]) -> Setting:
    """A path of the data set of a split: one of its arguments or of its data_prefix. That of the validation is that of
    the test too, where both were the same."""

    def place(dataset):
        prefix = dataset.get('data_prefix') or {}
        return next(((prefix, name) for name in names if name in prefix), None) or (
            (dataset, names[0]) if names[0] == 'ann_file' else None
        )

    def get(cfg):
        datasets = _datasets(cfg, split)
        found = place(datasets[0]) if len(datasets) == 1 else None
        return found[0].get(found[1], '') if found else None

    def put(cfg, new, old):
        splits = [split]
        if split == 'val' and _of_data('test', names).get(cfg) == old:
            splits.append('test')
        for each in splits:
            (dataset,) = _datasets(cfg, each)
            node, name = place(dataset)
            node[name] = new
            if name == 'ann_file':
                for evaluator in _evaluators(cfg, each) if each != 'train' else ():
                    if 'ann_file' in evaluator:
                        evaluator['ann_file'] = posixpath.join(dataset.get('data_root') or '', new)

    return Setting(get, put, 'path')


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _is_size(value) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))


def _equal(one, other) -> bool:
    sequences = all(isinstance(each, (list, tuple)) for each in (one, other))
    return list(one) == list(other) if sequences else one == other


def _is_count(value, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_KINDS = {
    'size': ('two numbers of pixels, such as (640,480)', _is_size),
    'count': ('a whole number of at least 1', _is_count),
    'count or 0': ('a whole number of at least 0', lambda value: _is_count(value, 0)),
    'number': ('a number above 0', _is_number),
    'numbers': ('a list of numbers above 0', lambda value: isinstance(value, list) and all(map(_is_number, value))),
    'values': ('a list of numbers or of RGB colours', lambda value: isinstance(value, (list, tuple))),
    'path': ('a text', lambda value: isinstance(value, str)),
}  # fmt: skip
_WHY_NOT = {
    'max_epochs': 'this config trains by iterations: max_iters',
    'max_iters': 'this config trains by epochs: max_epochs',
    'crop_size': 'this config trains on whole images: image_scale',
    'anchor_scales': 'the model of this config has no anchors',
    'anchor_ratios': 'the model of this config has no anchors',
    **dict.fromkeys(('ignored_values', 'image_suffix', 'label_map_suffix'), 'state label_values too'),
}
SETTINGS: dict[str, Setting] = {
    'image_scale': Setting(_image_scale, _put_image_scale, 'size'),
    'crop_size': Setting(_crop_size, _put_crop_size, 'size'),
    'batch_size': _at('train_dataloader.batch_size', 'count'),
    'num_workers': Setting(_num_workers, _put_num_workers, 'count or 0'),
    'lr': _at('optim_wrapper.optimizer.lr', 'number'),
    'max_epochs': _loop('max_epochs'),
    'max_iters': _loop('max_iters'),
    'warmup_iters': Setting(
        # LinearLR is at its last value in step `end - 1`
        lambda cfg: scheduler['end'] - 1 if (scheduler := _warmup(cfg)) else None,
        lambda cfg, new, old: _warmup(cfg).update(end=new + 1),
        'count or 0',
    ),
    'val_interval': _at('train_cfg.val_interval', 'count'),
    'ignore_index': Setting(_ignore_index, _put_ignore_index, 'count or 0'),
    'label_values': Setting(_label_values, _put_label_values, 'values'),
    'ignored_values': _of_label_maps('ignored_values', (), 'values'),
    'image_suffix': _of_label_maps('img_suffix', '.jpg', 'path'),
    'label_map_suffix': _of_label_maps('seg_map_suffix', '.png', 'path'),
    'anchor_scales': _anchors('scales'),
    'anchor_ratios': _anchors('ratios'),
    **{f'{split}_ann_file': _of_data(split, ('ann_file',)) for split in SPLITS},
    **{f'{split}_images': _of_data(split, ('img', 'img_path')) for split in SPLITS},
    **{f'{split}_label_maps': _of_data(split, ('seg_map_path',)) for split in SPLITS},
}  # fmt: skip
