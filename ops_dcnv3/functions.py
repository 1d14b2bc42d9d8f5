"""The operator under the names and arguments of the official package, for code that is written for it.

They are those of ``ops_dcnv3.functions`` and of the compiled module ``DCNv3`` there. ``im2col_step`` only bounds the
memory of the official kernels, and does nothing here. New code calls :func:`ops_dcnv3.dcnv3`.
"""

import torch
from torch import Tensor

from . import reference
from .dcnv3 import dcnv3


class DCNv3Function:
    """``DCNv3Function.apply(...)``, as of the official autograd function."""

    @staticmethod
    def apply(
        input: Tensor,
        offset: Tensor,
        mask: Tensor,
        kernel_h: int,
        kernel_w: int,
        stride_h: int,
        stride_w: int,
        pad_h: int,
        pad_w: int,
        dilation_h: int,
        dilation_w: int,
        group: int,
        group_channels: int,
        offset_scale: float,
        im2col_step: int,
        remove_center: bool = False,
    ) -> Tensor:
        pairs = (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
        _check_channels(input, group, group_channels)
        return dcnv3(input, offset, mask, *pairs, group, offset_scale, bool(remove_center))


def dcnv3_core_pytorch(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    group_channels: int,
    offset_scale: float,
    remove_center: bool = False,
) -> Tensor:
    """The specification, :func:`ops_dcnv3.reference.dcnv3`: readable, for any device, and slow."""
    pairs = (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
    _check_channels(input, group, group_channels)
    return reference.dcnv3(input, offset, mask, *pairs, group, offset_scale, bool(remove_center))


@torch.no_grad()
def dcnv3_forward(*arguments) -> Tensor:
    """The output without a gradient, for the arguments of :meth:`DCNv3Function.apply`."""
    return DCNv3Function.apply(*arguments)


@torch.no_grad()
def dcnv3_backward(input: Tensor, offset: Tensor, mask: Tensor, *arguments) -> list[Tensor]:
    """Gradients by input, offset and mask, for the arguments of :meth:`DCNv3Function.apply`, with the gradient of the
    output between ``offset_scale`` and ``im2col_step``."""
    *pairs, group, group_channels, offset_scale, grad_output = arguments[:12]
    remove_center = len(arguments) > 13 and bool(arguments[13])
    _check_channels(input, group, group_channels)
    pairs = [pairs[i : i + 2] for i in range(0, 8, 2)]
    options = group, offset_scale, remove_center, False, [True] * 3
    return list(torch.ops.ops_dcnv3.dcnv3_backward(grad_output, input, offset, mask, *pairs, *options))


def _check_channels(input: Tensor, group: int, group_channels: int) -> None:
    if input.shape[-1] != group * group_channels:
        raise ValueError(
            f'dcnv3: input must have group * group_channels = {group} * {group_channels} channels, got shape '
            f'{tuple(input.shape)}'
        )
