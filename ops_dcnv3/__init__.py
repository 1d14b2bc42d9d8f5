"""Deformable operators for PyTorch: compiled, differentiable, and dependent on torch alone."""

import torch  # noqa: F401  (its libraries have to be loaded before ours)

try:
    from . import _C  # noqa: F401  (loading it registers the operators)
except ImportError as error:
    raise ImportError(
        f'ops_dcnv3: the compiled library does not load ({error}). It has to be built for this Python and this torch: '
        'run `pip install --no-build-isolation .` in the project folder.'
    ) from error

from .dcnv3 import dcnv3
from .linear import Linear
from .module import DCNv3, build_act_layer, build_norm_layer
from .ms_deform_attn import ms_deform_attn
from .roi_module import (
    DeformPSRoIPoolPack,
    DeformRoIPool,
    DeformRoIPoolPack,
    ModulatedDeformRoIPool,
    ModulatedDeformRoIPoolPack,
    PSRoIPool,
)
from .roi_pool import deform_ps_roi_pool, deform_roi_pool, ps_roi_pool
from .sampling import Sampling, sampling_window

__all__ = [
    'DCNv3',
    'DeformPSRoIPoolPack',
    'DeformRoIPool',
    'DeformRoIPoolPack',
    'Linear',
    'ModulatedDeformRoIPool',
    'ModulatedDeformRoIPoolPack',
    'PSRoIPool',
    'Sampling',
    'build_act_layer',
    'build_norm_layer',
    'dcnv3',
    'deform_ps_roi_pool',
    'deform_roi_pool',
    'ms_deform_attn',
    'ps_roi_pool',
    'sampling_window',
]
