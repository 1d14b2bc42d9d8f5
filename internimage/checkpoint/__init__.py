"""Checkpoints: official and own files, read safely, loaded completely or not at all, written whole or not at all.

One clear error (`CheckpointError`) for everything that can be wrong. Needs torch, numpy and safetensors alone; what is
worth saying goes to Python's logger `internimage`.
"""

from .convert import convert_checkpoint
from .files import check_finite, dataset_meta, local_path, read_checkpoint, read_state_dict, write_checkpoint
from .fit import (
    backbone_weights,
    check_state_dict,
    fit_for_fine_tuning,
    is_whole_model,
    load_checkpoint_strict,
    load_pretrained_backbone,
)
from .names import official_to_ours, ours_to_official
from .text import CheckpointError, printable

__all__ = [
    'CheckpointError',
    'backbone_weights',
    'check_finite',
    'check_state_dict',
    'convert_checkpoint',
    'dataset_meta',
    'fit_for_fine_tuning',
    'is_whole_model',
    'load_checkpoint_strict',
    'load_pretrained_backbone',
    'local_path',
    'official_to_ours',
    'ours_to_official',
    'printable',
    'read_checkpoint',
    'read_state_dict',
    'write_checkpoint',
]
