"""Checkpoints: official and own files, read safely, loaded completely or not at all, written whole or not at all.

One clear error (`CheckpointError`) for everything that can be wrong. Importing this package makes mmengine read through
it as well: `load_from`, `resume` and `init_cfg` of any config take every form that `read_checkpoint` takes.
"""

from .convert import convert_checkpoint
from .files import CheckpointError, dataset_meta, read_checkpoint, read_state_dict, write_checkpoint
from .fit import (
    backbone_weights,
    build_on_meta,
    check_state_dict,
    class_layers,
    fit_for_fine_tuning,
    load_checkpoint_strict,
    load_pretrained_backbone,
)
from .names import official_to_ours, ours_to_official

__all__ = [
    'CheckpointError',
    'backbone_weights',
    'build_on_meta',
    'check_state_dict',
    'class_layers',
    'convert_checkpoint',
    'dataset_meta',
    'fit_for_fine_tuning',
    'load_checkpoint_strict',
    'load_pretrained_backbone',
    'official_to_ours',
    'ours_to_official',
    'read_checkpoint',
    'read_state_dict',
    'write_checkpoint',
]
