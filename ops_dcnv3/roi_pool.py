"""The RoI pooling operators: what users call, and what PyTorch has to know of them."""

from torch import Tensor

from . import reference

Pair = int | tuple[int, int]


def deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    output_size: Pair,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
    mask: Tensor | None = None,
) -> Tensor:
    return reference.deform_roi_pool(input, rois, offset, output_size, spatial_scale, sampling_ratio, gamma, mask)


def ps_roi_pool(
    input: Tensor, rois: Tensor, output_size: Pair, spatial_scale: float = 1.0, sampling_ratio: int = 0
) -> Tensor:
    return reference.ps_roi_pool(input, rois, output_size, spatial_scale, sampling_ratio)


def deform_ps_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output_size: Pair,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    return reference.deform_ps_roi_pool(input, rois, offset, output_size, spatial_scale, sampling_ratio, gamma)
