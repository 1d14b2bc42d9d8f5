"""Does a checkpoint fit a model? Loaded completely or not at all, with what is left out or kept named."""

import copy
from collections.abc import Iterable, Iterator, Mapping

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import MODELS
from torch import Tensor, nn

from .files import CheckpointError, read_checkpoint, read_state_dict

# How OpenMMLab's heads call the number of classes.
CLASS_COUNTS = {'num_classes', 'num_things_classes', 'num_stuff_classes'}


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


def load_pretrained_backbone(backbone: nn.Module, path) -> None:
    """Loads a backbone from an official ImageNet checkpoint, and says what of the file was not used.

    `path` is what `read_checkpoint` takes. Besides the ImageNet form, a whole detector's or segmentor's checkpoint is
    taken (names that start with `backbone.`).

    Raises:
        CheckpointError: as `read_checkpoint` and `backbone_weights`; nothing is loaded then.
    """
    weights = read_state_dict(path)
    used = backbone_weights(backbone, weights, path)
    own = backbone.state_dict()
    scales_of_one = [name for name in own if name not in used]
    backbone.load_state_dict(used, strict=False)  # checked

    message = f'backbone: {len(used)} of {len(own)} entries loaded from {path}'
    if scales_of_one:
        message += f'; not in the file, kept at 1: {", ".join(scales_of_one)}'
    if not is_whole_model(weights) and len(weights) > len(used):
        message += f'; in the file, not used: {", ".join(name for name in weights if name not in used)}'
    print_log(message, logger='current')


def backbone_weights(backbone: nn.Module, weights: Mapping[str, Tensor], path) -> dict[str, Tensor]:
    """Of the weights of the file `path` those of the backbone, by the names that they have in it.

    Everything that the backbone has must be among them, with one exception: layer scales (gamma1, gamma2) that start at
    exactly 1 may be missing and then keep their 1. InternImage-T needs it: its ImageNet model has no layer scale, its
    detectors and segmentors have. And everything of the file that belongs to a backbone (its stem and its stages) must
    be in this one; heads and, of H and G, the CLIP projector are left out.

    Raises:
        CheckpointError: a name is missing or unexpected, or a shape differs.
    """
    if is_whole_model(weights):
        used = {name.removeprefix('backbone.'): x for name, x in weights.items() if name.startswith('backbone.')}
    else:
        parts = {name for name, _ in backbone.named_children()}
        used = {name: x for name, x in weights.items() if name.split('.')[0] in parts}
    scales_of_one = {
        name: value
        for name, value in backbone.state_dict().items()
        if name.endswith(('gamma1', 'gamma2')) and name not in used and (value.is_meta or bool((value == 1).all()))
    }
    check_state_dict(backbone, {**used, **scales_of_one}, path)
    return used


def build_on_meta(model: dict) -> nn.Module:
    """The model of a config's `model` with all names and shapes, but no memory for weights."""
    with torch.device('meta'):
        return MODELS.build(copy.deepcopy(model))


def class_layers(model: dict) -> set[str]:
    """Names of the weights whose shape depends on the number of classes, for a config's `model`.

    Found by building the model with one class more, so that it holds for any head.
    """
    more = copy.deepcopy(model)
    for node in _dicts(more):
        for key in CLASS_COUNTS & node.keys():
            node[key] += 1
    shapes = build_on_meta(more).state_dict()
    return {
        name
        for name, x in build_on_meta(model).state_dict().items()
        if name in shapes and x.shape != shapes[name].shape
    }


def fit_for_fine_tuning(
    model: nn.Module, weights: Mapping[str, Tensor], names: Iterable[str], path
) -> dict[str, Tensor]:
    """The weights of the file `path` for a training of `model` on other classes, and says what starts anew.

    Entries among `names` (`class_layers`) whose shape differs keep what the model has; all others must fit.

    Returns:
        weights that `model` loads without anything missing, unexpected or of another shape.

    Raises:
        CheckpointError: as `check_state_dict`.
    """
    own = _unwrap(model).state_dict()
    anew = {
        name: own[name] for name in own if name in names and name in weights and weights[name].shape != own[name].shape
    }
    fitting = {**weights, **anew}
    check_state_dict(model, fitting, path)
    if anew:
        listed = ', '.join(f'{name} {tuple(x.shape)}, was {tuple(weights[name].shape)}' for name, x in anew.items())
        print_log(
            f'{len(fitting) - len(anew)} of {len(fitting)} entries loaded from {path}; the number of classes differs, '
            f'so {len(anew)} start anew: {listed}',
            logger='current',
        )
    return fitting


def is_whole_model(weights: Mapping[str, Tensor]) -> bool:
    """A detector or segmentor, as against a backbone or an ImageNet classifier."""
    return any(name.startswith('backbone.') for name in weights)


def _unwrap(model: nn.Module) -> nn.Module:
    """The model inside mmengine's wrappers (data parallel, test-time augmentation), whose names have no prefix."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _dicts(node) -> Iterator[dict]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _dicts(child)
