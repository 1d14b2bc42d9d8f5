"""Reading configs: walking through them, and `classes`, which sets everything that follows from it."""

from collections.abc import Iterator

from mmengine.config import Config

# How OpenMMLab's heads call the number of classes.
CLASS_COUNTS = {'num_classes', 'num_things_classes', 'num_stuff_classes'}


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
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        for dataset in leaf_datasets(loader.dataset) if loader else ():
            metainfo = dict(dataset.get('metainfo') or {}, classes=tuple(classes))
            if len(metainfo.get('palette', classes)) != len(classes):
                del metainfo['palette']  # mmdet and mmseg make one
            dataset['metainfo'] = metainfo


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
