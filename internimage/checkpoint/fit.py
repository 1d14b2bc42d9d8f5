"""Does a checkpoint fit a model? Loaded completely or not at all, with what is left out or kept named."""

import logging
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from .files import read_checkpoint, read_state_dict
from .text import CheckpointError, listed

logger = logging.getLogger('internimage')
MOST_LISTED = 100


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
    found = [f'{len(names)} {kind}: {listed(names)}' for kind, names in problems.items() if names]
    if found:
        raise CheckpointError(
            f'checkpoint {path} is of another model, {len(own)} entries in the model, {len(state_dict)} in the file; '
            + '; '.join(found)
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
        message += f'; in the file, not used: {listed((name for name in weights if name not in used), MOST_LISTED)}'
    logger.info('%s', message)


def backbone_weights(backbone: nn.Module, weights: Mapping[str, Tensor], path) -> dict[str, Tensor]:
    """Of the weights of the file `path` those of the backbone, by the names that they have in it.

    Everything that the backbone has must be among them, with one exception: layer scales (gamma1, gamma2) that start at
    exactly 1 may be missing and then keep their 1. InternImage-T needs it: its ImageNet model has no layer scale, its
    detectors and segmentors have. And everything of the file that belongs to a backbone (its stem and its stages) must
    be in this one; heads and, of H and G, the CLIP projector are left out.

    Raises:
        CheckpointError: a name is missing or unexpected, or a shape differs.
    """
    prefix = 'backbone.' if is_whole_model(weights) else ''
    parts = tuple(f'{prefix}{name}.' for name, _ in backbone.named_children())
    used = {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(parts)}
    scales_of_one = {
        name: value
        for name, value in backbone.state_dict().items()
        if name.endswith(('gamma1', 'gamma2')) and name not in used and (value.is_meta or bool((value == 1).all()))
    }
    check_state_dict(backbone, {**used, **scales_of_one}, path)
    return used


def fit_for_fine_tuning(
    model: nn.Module, weights: Mapping[str, Tensor], names: Iterable[str], path
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of the file `path` for a training of `model` on other classes.

    Entries among `names` (those that depend on the number of classes) whose shape differs keep what the model has; all
    others must fit.

    Returns:
        weights that `model` loads without anything missing, unexpected or of another shape; and, for each
        entry that keeps what the model has, a text with both shapes.

    Raises:
        CheckpointError: as `check_state_dict`.
    """
    own = _unwrap(model).state_dict()
    anew = [name for name in own if name in names and name in weights and weights[name].shape != own[name].shape]
    fitting = {**weights, **{name: own[name] for name in anew}}
    check_state_dict(model, fitting, path)
    return fitting, [f'{name} {tuple(own[name].shape)}, was {tuple(weights[name].shape)}' for name in anew]


def is_whole_model(weights: Mapping[str, Tensor]) -> bool:
    """A detector or segmentor, as against a backbone or an ImageNet classifier."""
    return any(name.startswith('backbone.') for name in weights)


def _unwrap(model: nn.Module) -> nn.Module:
    """The model inside wrappers (data parallel, test-time augmentation), whose names have no prefix: a wrapper has a
    `module`, and no parameter beside it."""
    while isinstance(inner := getattr(model, 'module', None), nn.Module) and all(
        name.startswith('module.') for name, _ in model.named_parameters()
    ):
        model = inner
    return model
