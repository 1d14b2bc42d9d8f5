"""The DCNv3 operator: what users call, and what PyTorch has to know of it."""

import torch
from torch import Tensor

from . import reference
from .checks import (
    Pair,
    autocast_dtype,
    check_finite,
    check_tensors,
    compiled_devices,
    int_of,
    pair_of,
    warn_of_reference,
)
from .derivatives import differentiable


def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: Pair = 3,
    stride: Pair = 1,
    padding: Pair = 1,
    dilation: Pair = 1,
    groups: int = 4,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    softmax: bool = False,
) -> Tensor:
    r"""Deformable convolution v3, the operator of InternImage (arXiv 2211.05778, equation 2).

    .. math:: y_g(p_0) = \sum_k m_{gk}\, x_g(p_0 + s\,(p_k + \Delta p_{gk}))

    For group :math:`g` of channels and every point :math:`k` of the kernel window: ``input`` is sampled bilinearly at
    the middle of the window :math:`p_0`, plus ``offset_scale`` :math:`s` times the sum of the regular grid
    :math:`p_k` and the learned ``offset``, and weighted with ``mask``. There are no other weights; the layer
    :class:`DCNv3` adds the projections around it.

    Coordinates are input pixels, the centre of pixel (row, column) being the point (x, y) = (column, row). Outside the
    image a corner of the interpolation reads 0; a point a whole pixel or more outside, also an infinite one,
    contributes nothing, and a NaN position makes the output of its group at that pixel NaN. The points of a window run
    with x as the outer loop and y as the inner one, the reverse of ``torchvision.ops.deform_conv2d``.

    Args:
        input (Tensor[N, H, W, C]): C divisible by ``groups``.
        offset (Tensor[N, H_out, W_out, groups * P * 2]): per point (x, y). P = kernel height * kernel width, one less
            with ``remove_center``; H_out = (H + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1.
        mask (Tensor[N, H_out, W_out, groups * P]): the modulation, already normalised; with ``softmax`` its logits.
        kernel_size, stride, padding, dilation (int or (int, int)): (height, width).
        groups (int): groups of channels; each has its own offsets and mask.
        offset_scale (float): multiplies the regular grid and the offsets.
        remove_center (bool): leaves out the middle point of the window (odd kernels only).
        softmax (bool): the modulation is the softmax of ``mask`` over the P points of each group, as in InternImage;
            computed within the operator, without a tensor of its own.

    ``offset`` and ``mask`` may be slices of the last dimension of one tensor; they are not copied then. An image
    has at least one and fewer than 2^31 - 1 pixels. The tensors share one device and one dtype: float32, float64,
    bfloat16 or float16, sums of the 16-bit ones being kept in float32. Under autocast float32 tensors are cast to
    the autocast dtype. Gradients are deterministic on the CPU; on CUDA the input's is so under
    ``torch.use_deterministic_algorithms``. On a device without a compiled kernel :func:`ops_dcnv3.reference.dcnv3`
    runs in its place, with a warning.

    Returns:
        Tensor[N, H_out, W_out, C]

    Raises:
        TypeError: an argument is not of its type, or the tensors differ in dtype.
        ValueError: a shape, a value or a device does not fit; the message has the rule and what was received.
    """
    geometry = _check(
        input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax
    )
    dtype = autocast_dtype(input)
    if dtype is not None:
        input, offset, mask = input.to(dtype), offset.to(dtype), mask.to(dtype)
    elif not input.dtype == offset.dtype == mask.dtype:
        raise TypeError(
            f'dcnv3: input, offset and mask must have one dtype, got {input.dtype}, {offset.dtype} and {mask.dtype}'
        )
    if input.device.type in _COMPILED_DEVICES:
        return _compiled(input, offset, mask, *geometry)
    warn_of_reference('dcnv3', input.device.type, stacklevel=3)
    return reference.dcnv3(input, offset, mask, *geometry)


_COMPILED_DEVICES = compiled_devices('dcnv3')


def _check(
    input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax
) -> tuple:
    """All rules on the arguments; returns those after the tensors, with ints as pairs."""
    tensors = dict(input=input, offset=offset, mask=mask)
    check_tensors('dcnv3', tensors)
    for name, tensor in tensors.items():
        if tensor.dim() != 4:
            raise ValueError(f'dcnv3: {name} must have 4 dimensions (N, H, W, channels), got shape {_shape(tensor)}')

    kernel_size = pair_of('dcnv3', 'kernel_size', kernel_size, least=1)
    stride = pair_of('dcnv3', 'stride', stride, least=1)
    padding = pair_of('dcnv3', 'padding', padding, least=0)
    dilation = pair_of('dcnv3', 'dilation', dilation, least=1)
    check_finite('dcnv3', 'offset_scale', offset_scale)
    remove_center = bool(remove_center)
    if remove_center and (kernel_size[0] % 2 == 0 or kernel_size[1] % 2 == 0 or kernel_size == (1, 1)):
        raise ValueError(f'dcnv3: remove_center needs an odd kernel_size larger than 1, got {kernel_size}')

    batch, height, width, channels = input.shape
    if height < 1 or width < 1:
        raise ValueError(f'dcnv3: height and width of input must be at least 1, got shape {_shape(input)}')
    groups = int_of('dcnv3', 'groups', groups, least=1)
    if channels < 1 or channels % groups:
        raise ValueError(f'dcnv3: the channels of input must be divisible by groups, got {channels} and {groups}')
    out_size = _output_size((height, width), kernel_size, stride, padding, dilation)
    if out_size[0] < 1 or out_size[1] < 1:
        raise ValueError(
            f'dcnv3: the kernel window, {kernel_size} with dilation {dilation}, must fit into the padded input, got '
            f'height and width {(height, width)} with padding {padding}'
        )
    points = groups * (kernel_size[0] * kernel_size[1] - remove_center)
    for name, tensor, last in (('offset', offset, 2 * points), ('mask', mask, points)):
        if tensor.shape != (batch, *out_size, last):
            per_point = 'groups * P * 2' if name == 'offset' else 'groups * P'
            raise ValueError(
                f'dcnv3: {name} must be (N, H_out, W_out, {per_point}) = {(batch, *out_size, last)} for input '
                f'{_shape(input)}, kernel_size {kernel_size}, stride {stride}, padding {padding}, dilation {dilation}, '
                f'groups {groups}, remove_center {remove_center}; got {_shape(tensor)}'
            )
    return kernel_size, stride, padding, dilation, groups, float(offset_scale), remove_center, bool(softmax)


def _shape(tensor) -> tuple:
    return tuple(tensor.shape)


def _output_size(size, kernel_size, stride, padding, dilation) -> tuple[int, int]:
    return tuple(
        (size[axis] + 2 * padding[axis] - dilation[axis] * (kernel_size[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    )


@torch.library.register_fake('ops_dcnv3::dcnv3')
def _(input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax):
    size = _output_size(input.shape[1:3], kernel_size, stride, padding, dilation)
    return input.new_empty((input.shape[0], *size, input.shape[3]))


@torch.library.register_fake('ops_dcnv3::dcnv3_backward')
def _(grad_output, input, offset, mask, *geometry_and_output_mask):
    wanted = geometry_and_output_mask[-1]
    return tuple(t.new_empty(t.shape if want else (0,)) for t, want in zip((input, offset, mask), wanted, strict=True))


_compiled = differentiable('dcnv3', reference.dcnv3, tensors=3, by=(0, 1, 2))
