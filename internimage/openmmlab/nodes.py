"""Walking through configs, and where those of this package are."""

from collections.abc import Iterator
from pathlib import Path

SPLITS = ('train', 'val', 'test')


def config_folder() -> Path:
    """Where the configs of this project are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / 'configs'
    return inside if inside.is_dir() else package.parent / 'configs'


def type_name(node: dict) -> str | None:
    """The name of a config entry's `type`, without the scope before it; in pure Python configs `type` is the class."""
    kind = node.get('type')
    return getattr(kind, '__name__', str(kind)).split('.')[-1] if kind is not None else None


def dicts(node) -> Iterator[dict]:
    """Every dict in a config or a part of it, the outer ones first."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from dicts(child)


def leaf_datasets(dataset: dict) -> Iterator[dict]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    if inner is None:
        yield dataset
    else:
        for child in inner:
            yield from leaf_datasets(child)
