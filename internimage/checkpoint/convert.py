"""From any known checkpoint to a file of ours, or of the official code."""

from torch import nn

from .files import dataset_meta, read_checkpoint, write_checkpoint
from .fit import backbone_weights, check_state_dict, is_whole_model
from .names import ours_to_official


def convert_checkpoint(source, target, to: str = 'ours', model: nn.Module | None = None, ema: bool = False) -> int:
    """Writes the weights of `source` (all that `read_checkpoint` takes) and what it tells about its training (`meta`)
    to the .pth or .safetensors file `target`; returns the number of entries. The state of a training is left behind.

    Args:
        to: the names to write, 'ours' (mmdet 3, mmseg 1) or 'official' (OpenMMLab 2.x / 0.x).
        model: if given, the weights must fit it, all of them; those of an ImageNet checkpoint its backbone.
        ema: take the averaged weights, see `read_checkpoint`.

    Raises:
        CheckpointError: as `read_checkpoint`, `check_state_dict`, `write_checkpoint`; nothing is written then.
    """
    checkpoint = read_checkpoint(source, ema=ema)
    weights, meta, classes = (
        checkpoint['state_dict'],
        dict(checkpoint.get('meta') or {}),
        dataset_meta(checkpoint, source),
    )
    if model is not None:
        if is_whole_model(weights) or not hasattr(model, 'backbone'):
            check_state_dict(model, weights, source)
        else:
            backbone_weights(model.backbone, weights, source)
    key = 'state_dict'
    if to == 'official':
        key = 'state_dict' if is_whole_model(weights) else 'model'  # as the official classification has it
        weights = ours_to_official(weights)
        meta.update({name.upper(): value for name, value in classes.items()})
    elif classes:
        meta['dataset_meta'] = classes
    write_checkpoint(target, weights, meta, key)
    return len(weights)
