"""`--cfg-options KEY=VALUE ...`: parsing the values, and checking that the config has such keys."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.registry import RUNNERS, Registry, root
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, LogProcessor, Runner, TestLoop, ValLoop
from mmengine.utils.dl_utils import set_multi_processing
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from ..errors import UserError

DELETE = '_delete_'
# What is read from the top level of a config besides the arguments of the Runner.
TOP_LEVEL = {
    'runner_type', 'custom_imports', 'classes', 'data_root', 'tta_model', 'tta_pipeline', 'model_wrapper_cfg',
    'sync_bn', 'find_unused_parameters', 'activation_checkpointing', 'efficient_conv_bn_eval', 'compile',
}  # fmt: skip
# What mmengine reads in the parts of a config that name no type: constructors, and keys that no constructor states.
UNTYPED: dict[str, tuple[list[Callable], set[str]]] = {
    r'(train|val|test)_dataloader': (
        [DataLoader],
        {'dataset', 'sampler', 'batch_sampler', 'worker_init_fn', 'collate_fn', 'num_batch_per_epoch'},
    ),
    r'(train|val|test)_dataloader\..*metainfo': ([], {'classes', 'palette'}),
    r'(train|val|test)_dataloader\..*filter_cfg': ([], {'filter_empty_gt', 'min_size', 'bbox_min_size'}),
    r'train_cfg': ([EpochBasedTrainLoop, IterBasedTrainLoop], {'type', 'by_epoch'}),
    r'val_cfg': ([ValLoop], {'type'}),
    r'test_cfg': ([TestLoop], {'type'}),
    r'optim_wrapper': ([OptimWrapper], {'type', 'constructor', 'paramwise_cfg'}),
    r'optim_wrapper\.clip_grad': ([clip_grad_norm_], {'type', 'clip_value'}),
    r'optim_wrapper\.paramwise_cfg': (
        [],
        {
            'custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'dwconv_decay_mult',
            'flat_decay_mult', 'bypass_duplicate', 'dcn_offset_lr_mult',
        },
    ),
    r'default_hooks': ([], {'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'}),
    r'randomness': ([Runner.set_randomness], set()),
    r'log_processor': ([LogProcessor], {'type'}),
    r'auto_scale_lr': ([], {'enable', 'base_batch_size'}),
    r'env_cfg': ([], {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'}),
    r'env_cfg\.mp_cfg': ([set_multi_processing], set()),
    r'env_cfg\.dist_cfg': ([], {'backend', 'timeout'}),
}  # fmt: skip
# Dicts with keys of the user's choice, such as parts of parameter names. (So are the options of a constructor of
# optimizers; ours names those that it does not know.)
FREE = re.compile(r'optim_wrapper\.paramwise_cfg\.custom_keys(\..+)?')
# What mmengine takes out of an entry of such a type before the constructor sees the rest.
TAKEN_OUT = {OptimWrapper: {'constructor', 'paramwise_cfg'}, _ParamScheduler: {'convert_to_iter_based', 'by_epoch'}}


class ConfigError(UserError, ValueError):
    """An error in a config or in an option for it. The message is one line: the key, the value, what to do."""


class CfgOptions(DictAction):
    """mmengine's action; keeps spaces inside values, and refuses what is not KEY=VALUE in one line."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for word in values:
            if '=' not in word:
                raise ConfigError(f'{option_string} {word}: must be KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)

    @staticmethod
    def _parse_iterable(value: str):
        if any(value.count(left) != value.count(right) for left, right in ('()', '[]')):
            raise ConfigError(f'--cfg-options: the brackets of {value} do not match')
        # mmengine drops every space, those of a folder or class name too
        value = re.sub(r'\s*([\[\](),])\s*', r'\1', value.strip().strip('\'"').strip())
        return _with_spaces(DictAction._parse_iterable(value.replace(' ', '\0')))


def _with_spaces(value):
    if isinstance(value, (list, tuple)):
        return type(value)(map(_with_spaces, value))
    return value.replace('\0', ' ') if isinstance(value, str) else value


def merge_options(cfg: Config, options: dict) -> None:
    """Sets `options`, values by dotted keys ('train_dataloader.dataset.pipeline.2.scale'), in the config.

    A key must be one that the config has, or one that is read there: an argument of the constructor that `type` names,
    or of mmengine's Runner. '+key' adds any other, and takes a value of any type.

    Raises:
        ConfigError: there is no such key (a variable of the config file that nothing reads is not one), or the value is
            of another type than the one it replaces.
    """
    checked = _Checked(cfg)
    tree = ConfigDict()
    for written, value in options.items():
        key = written.removeprefix('+')
        *parents, last = key.split('.')
        node, path = tree, []
        for part in parents:
            path.append(part)
            node = node.setdefault(part, ConfigDict())
            if not isinstance(node, dict):
                raise ConfigError(f'both {".".join(path)} and {key} are given')
        if last in node:
            raise ConfigError(f'{key} is given twice, or both it and keys below it')
        node[last] = value
    for written, value in options.items():
        checked.check(written.removeprefix('+'), value, tree, forced=written.startswith('+'))
    cfg.merge_from_dict(_new_lists(tree, cfg._cfg_dict))


class _Checked:
    """Whether the keys and values of options fit a config."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.scope = cfg.get('default_scope') or 'mmengine'
        self.top_level = set(_arguments(RUNNERS.get(cfg.get('runner_type', 'Runner')))) - {'cfg'} | TOP_LEVEL

    def check(self, key: str, value, tree: dict, forced: bool) -> None:
        """One option. `tree` holds all of them: another may set the type of what this one is for."""
        parts = key.split('.')
        if not forced and parts[0] not in self.top_level:
            self.unknown(key, value, 'is a variable of the file, which nothing reads afterwards'
                         if parts[0] in self.cfg else 'is no key of the config')  # fmt: skip
        node = self.cfg._cfg_dict
        for depth, part in enumerate(parts):
            path = '.'.join(parts[:depth])
            if isinstance(node, (list, tuple)):
                if not part.isdigit() or int(part) >= len(node):
                    raise ConfigError(f'{key}: {path} is a list of {len(node)}, with the keys 0 to {len(node) - 1}')
                parent, node = node, node[int(part)]
            elif isinstance(node, dict):
                new = tree if tree is not None else {}
                if part == DELETE or new.get(DELETE):
                    return  # the constructor checks the new entry
                if part not in node:
                    arguments = self.arguments(path, {**node, **new}, parts[:depth])
                    if not forced and part not in arguments:
                        self.unknown(key, value, 'is no key of the config')
                    if depth == len(parts) - 1 and not forced:
                        self.same_type(key, arguments.get(part), value)
                    return
                parent, node = node, node[part]
            else:
                raise ConfigError(f'{key}: {path} is {node!r}, which has no keys')
            tree = tree.get(part) if isinstance(tree, dict) else None
            if node is None and depth < len(parts) - 1:  # an entry that was switched off
                parent[part] = node = ConfigDict()
                forced = True
        if not forced:
            self.same_type(key, node, value)

    def arguments(self, path: str, node: dict, parts: list[str]) -> dict:
        """What is read from `node` at `path`: names and default values, where there are some."""
        constructor = (self.cfg.get('optim_wrapper') or {}).get('constructor')
        if FREE.fullmatch(path) or (path == 'optim_wrapper.paramwise_cfg' and constructor):
            return _Anything()
        if not path:
            return dict.fromkeys(self.top_level)
        found = {}
        if node.get('type') is not None:
            for constructor in _constructors(node['type'], self.scope):
                found.update(_arguments(constructor))
                for base, names in TAKEN_OUT.items():
                    if inspect.isclass(constructor) and issubclass(constructor, base):
                        found = dict.fromkeys(names) | found
            return found
        for pattern, (constructors, names) in UNTYPED.items():
            if re.fullmatch(pattern, path):
                found = dict.fromkeys(names)
                for constructor in constructors:
                    found.update(_arguments(constructor))
        default = self.default_of(parts)
        return found | default if isinstance(default, dict) else found

    def default_of(self, parts: list[str]):
        """The value of a constructor's argument where a config does not state it: data_prefix=dict(img_path='')."""
        node = self.cfg._cfg_dict
        for part in parts[:-1]:
            node = node[int(part)] if isinstance(node, (list, tuple)) else node[part]
        if isinstance(node, dict) and node.get('type') is not None:
            for constructor in _constructors(node['type'], self.scope):
                return _arguments(constructor).get(parts[-1])

    def unknown(self, key: str, value, what: str) -> None:
        nearest = self.nearest(key)
        hint = f': did you mean {" or ".join(nearest)}?' if nearest else ''
        raise ConfigError(f'{key} {what}{hint} (To add it all the same: +{key}={_word(value)})')

    def nearest(self, key: str) -> list[str]:
        """The three keys that are most alike: in the last word first of all, as people leave out the rest."""

        def likeness(name: str) -> float:
            return 0.6 * _ratio(name.split('.')[-1], key.split('.')[-1]) + 0.4 * _ratio(name, key)

        scores = {name: likeness(name) for name in self.keys() if name != key}
        return [name for name in sorted(scores, key=lambda name: (-scores[name], name))[:3] if scores[name] > 0.6]

    def keys(self) -> Iterator[str]:
        """Every dotted key that the config states or its constructors take."""
        yield from self.top_level - self.cfg._cfg_dict.keys()
        for name in self.top_level & self.cfg._cfg_dict.keys():
            yield from self.keys_below([name], self.cfg._cfg_dict[name])

    def keys_below(self, parts: list[str], node) -> Iterator[str]:
        path = '.'.join(parts)
        yield path
        if isinstance(node, dict):
            children = {**node}
            arguments = self.arguments(path, node, parts)
            for name in arguments.keys() - children.keys():
                yield f'{path}.{name}'
        elif isinstance(node, (list, tuple)) and any(isinstance(child, (dict, list)) for child in node):
            children = {str(index): child for index, child in enumerate(node)}
        else:
            children = {}
        for name, child in children.items():
            yield from self.keys_below([*parts, str(name)], child)

    def same_type(self, key: str, old, new) -> None:
        if not _replaces(new, old):
            raise ConfigError(
                f'{key} is {_kind(old)} ({_short(old)}), got {_kind(new)} ({_short(new)}). '
                f'(To set it all the same: +{key}={_word(new)})'
            )


class _Anything(dict):
    def __contains__(self, key) -> bool:
        return True


def _new_lists(tree, node):
    """The options as merge_from_dict takes them: nested, without `_delete_` for what is not there to be deleted, and
    lists where all keys of something new are 0, 1, 2 ..."""
    if not isinstance(tree, dict):
        return tree
    if node is None:
        tree.pop(DELETE, None)
        if tree and list(tree) == [str(index) for index in range(len(tree))]:
            return [_new_lists(value, None) for value in tree.values()]
    for key in tree:
        child = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, (list, tuple)) and key.isdigit() and int(key) < len(node):
            child = node[int(key)]
        tree[key] = _new_lists(tree[key], child)
    return tree


def _kind(value) -> str:
    kinds = {bool: 'true or false', (int, float): 'a number', str: 'a string', (list, tuple): 'a list', dict: 'a dict'}
    return next((name for types, name in kinds.items() if isinstance(value, types)), type(value).__name__)


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _word(value) -> str:
    """A value as it is written on the command line."""
    return str(value).replace("'", '').replace(', ', ',')


def _leaves(value) -> Iterator:
    if isinstance(value, (list, tuple)):
        for child in value:
            yield from _leaves(child)
    else:
        yield value


def _replaces(new, old) -> bool:
    """May a value replace `old`? Whole numbers and fractions, and lists and tuples, replace each other; one
    string or number a list of them where that is usual (metric='bbox', prob=[0.3, 0.3])."""
    kinds = {_kind(leaf) for leaf in _leaves(old)}
    if old is None or new is None or not kinds <= {'true or false', 'a number', 'a string', 'a dict'}:
        return True
    if isinstance(old, bool) and new in (0, 1) and not isinstance(new, (list, tuple, str)):
        return True
    if isinstance(old, (list, tuple)) and not isinstance(new, (list, tuple)):
        return kinds == {'a string'} and isinstance(new, str)
    return not kinds or {_kind(leaf) for leaf in _leaves(new)} <= kinds


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _constructors(name, scope: str) -> Iterator[Callable]:
    """What `type` may mean: the class itself, or those registered under the name."""
    if not isinstance(name, str):
        yield name
        return
    for registry in vars(root).values():
        if isinstance(registry, Registry):
            found = registry.children.get(scope, registry).get(name)
            if found is not None:
                yield found


@cache
def _arguments(constructor: Callable) -> dict:
    """Names of the arguments and their default values (None: none). Those of the base classes too, as far as **kwargs
    hands them on."""
    functions = [constructor]
    if inspect.isclass(constructor):
        functions = [base.__init__ for base in constructor.__mro__ if '__init__' in vars(base)]
    arguments = {}
    for function in functions:
        if function in (nn.Module.__init__, object.__init__):
            break
        parameters = inspect.signature(function).parameters.values()
        for parameter in parameters:
            if parameter.name != 'self' and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                default = None if parameter.default is parameter.empty else parameter.default
                arguments.setdefault(parameter.name, default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return arguments
