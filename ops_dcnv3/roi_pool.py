"""The RoI pooling operators: what users call, and what PyTorch has to know of them."""

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
    r"""Deformable RoI pooling (arXiv 1703.06211, section 2.2), with ``mask`` modulated (arXiv 1811.11168, section 3.2).

    A RoI is cut into bins, and each bin gives the average of ``input`` over samples on an even grid inside it. A bin is
    shifted by ``gamma`` times its offset times the size of the RoI, and its average is multiplied by its modulation:

    .. math:: y_{ij} = m_{ij} \frac{1}{n} \sum_{p \in bin(i, j)} x(p + \gamma\, \Delta p_{ij} \circ (w, h))

    Without offsets this is RoIAlign, exactly ``torchvision.ops.roi_align(..., aligned=True)``.

    Coordinates: a RoI is given in image pixels, (x1, y1) being its top left and (x2, y2) its bottom right corner; times
    ``spatial_scale``, less 0.5, it is in pixels of ``input``, where the centre of pixel (row, column) is the point
    (x, y) = (column, row). Samples are interpolated bilinearly; one that lies up to a pixel outside the image reads the
    border, one further out is 0 and counts.

    What is special: a RoI without area has no samples when ``sampling_ratio`` is 0, nor has one whose corners are
    swapped, and is 0. A box with NaN or infinite coordinates is NaN, and so is a bin whose offset is NaN. A bin has at
    most max(1024, size of ``input``) adaptive samples along an axis. An image index that does not exist is an error on
    the CPU, and on other devices, which cannot tell in time, a RoI of zeros.

    Args:
        input (Tensor[N, C, H, W]): contiguous or, faster, channels_last.
        rois (Tensor[K, 5]): index of the image, x1, y1, x2, y2. Any floating-point dtype; float32 also where ``input``
            is of 16 bits, which are too few for a position. Without gradient.
        offset (Tensor[K, 2, height, width], optional): of each bin, x first, in units of ``gamma`` times the width or
            height of the RoI.
        output_size (int or (int, int)): bins, (height, width).
        spatial_scale (float): pixels of ``input`` per image pixel, larger than 0.
        sampling_ratio (int): samples of a bin along each axis, at most 1024; 0 for adaptive, that is, its size in
            pixels, rounded up.
        gamma (float): multiplies the offsets.
        mask (Tensor[K, height, width], optional): the modulation of each bin.

    The tensors share one device and, but for ``rois``, one dtype: float32, float64, bfloat16 or float16, sums of the
    16-bit ones being kept in float32. Under autocast float32 tensors are cast to the autocast dtype, ``rois`` excepted.
    There are gradients by ``input``, ``offset`` and ``mask``; they are deterministic, on CUDA that of ``input`` only
    with ``torch.use_deterministic_algorithms``. On a device without a compiled kernel :mod:`ops_dcnv3.reference` runs
    in its place, with a warning.

    Returns:
        Tensor[K, C, height, width]

    Raises:
        TypeError: an argument is not of its type, or the tensors differ in dtype.
        ValueError: a shape, a value or a device does not fit; the message has the rule and what was received.
        IndexError: an image index is out of range (CPU).
    """
    tensors = dict(input=input, rois=rois, offset=offset, mask=mask)
    return _call('deform_roi_pool', tensors, output_size, spatial_scale, sampling_ratio, gamma)


def ps_roi_pool(
    input: Tensor, rois: Tensor, output_size: Pair, spatial_scale: float = 1.0, sampling_ratio: int = 0
) -> Tensor:
    """Position-sensitive RoI pooling (R-FCN, arXiv 1605.06409): each bin reads score maps of its own.

    Bin (i, j) of output d averages channel (d * height + i) * width + j of ``input``, with the samples of
    :func:`deform_roi_pool`; the same as ``torchvision.ops.ps_roi_align``, but that a RoI without area is 0, not NaN.

    Args:
        input (Tensor[N, D * height * width, H, W])
        rois, output_size, spatial_scale, sampling_ratio: see :func:`deform_roi_pool`, as for everything else.

    Returns:
        Tensor[K, D, height, width]
    """
    return _call('ps_roi_pool', dict(input=input, rois=rois), output_size, spatial_scale, sampling_ratio)


def deform_ps_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output_size: Pair,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """Deformable position-sensitive RoI pooling (arXiv 1703.06211, section 2.2): :func:`ps_roi_pool` of shifted bins.

    Args:
        input (Tensor[N, D * height * width, H, W])
        offset (Tensor[K, 2 * n, height, width]): for n classes, by which D is divisible; output d takes those of class
            d // (D // n), its channel 2 * class being x and the next one y, in units of ``gamma`` times the width or
            height of the RoI.
        rois, output_size, spatial_scale, sampling_ratio, gamma: see :func:`deform_roi_pool`, as for everything else.

    Returns:
        Tensor[K, D, height, width]
    """
    if offset is None:
        raise TypeError('deform_ps_roi_pool: offset must be a tensor, got NoneType')
    tensors = dict(input=input, rois=rois, offset=offset)
    return _call('deform_ps_roi_pool', tensors, output_size, spatial_scale, sampling_ratio, gamma)


def _call(name, tensors, output_size, spatial_scale, sampling_ratio, *gamma) -> Tensor:
    """Checks the arguments and runs the operator, with the casts of autocast. `tensors`: those of its schema."""
    options = _check(name, tensors, output_size, spatial_scale, sampling_ratio, *gamma)
    input = tensors['input']
    dtype = autocast_dtype(input)
    of_one_dtype = {key: t for key, t in tensors.items() if t is not None and key != 'rois'}
    if dtype is not None:
        tensors = {**tensors, **{key: t.to(dtype) for key, t in of_one_dtype.items()}}
    elif len({t.dtype for t in of_one_dtype.values()}) > 1:
        received = ', '.join(f'{key} {t.dtype}' for key, t in of_one_dtype.items())
        raise TypeError(f'{name}: all tensors but rois must have one dtype, got {received}')
    if input.device.type in _COMPILED_DEVICES:
        return _COMPILED[name](*tensors.values(), *options)
    warn_of_reference(name, input.device.type, stacklevel=4)
    return _SPECIFICATIONS[name](*tensors.values(), *options)


_COMPILED_DEVICES = compiled_devices('deform_roi_pool')


def _check(name, tensors, output_size, spatial_scale, sampling_ratio, gamma=0.0) -> tuple:
    """All rules on the arguments; returns those after the tensors, with ints as pairs."""
    input, rois, offset = tensors['input'], tensors['rois'], tensors.get('offset')
    position_sensitive = name != 'deform_roi_pool'
    check_tensors(name, {key: t for key, t in tensors.items() if t is not None or key in ('input', 'rois')})
    bins = pair_of(name, 'output_size', output_size, least=1)
    check_finite(name, 'spatial_scale', spatial_scale)
    check_finite(name, 'gamma', gamma)
    if spatial_scale <= 0:
        raise ValueError(f'{name}: spatial_scale must be larger than 0, got {spatial_scale!r}')
    sampling_ratio = int_of(name, 'sampling_ratio', sampling_ratio, least=0, most=reference.MOST_SAMPLES)

    if input.dim() != 4 or any(size < 1 for size in input.shape[1:]):
        raise ValueError(f'{name}: input must be (N, C, H, W), C, H and W at least 1, got shape {tuple(input.shape)}')
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f'{name}: rois must be (K, 5), image index, x1, y1, x2, y2, got shape {tuple(rois.shape)}')
    shapes = {'mask': (rois.shape[0], *bins)}
    classes = 1
    if offset is not None:
        if position_sensitive and offset.dim() == 4:
            classes = max(1, offset.shape[1] // 2)
        shapes['offset'] = (rois.shape[0], 2 * classes, *bins)
    for key, shape in shapes.items():
        if tensors.get(key) is not None and tensors[key].shape != shape:
            form = {'mask': '(K, height, width)', 'offset': '(K, 2 * n, height, width)'}[key]
            raise ValueError(
                f'{name}: {key} must be {form} = {shape} for rois {tuple(rois.shape)} and output_size {bins}, '
                f'got shape {tuple(tensors[key].shape)}'
            )
    least = classes * bins[0] * bins[1] if position_sensitive else 1
    if input.shape[1] % least:
        raise ValueError(
            f'{name}: the channels of input must be divisible by n * height * width = {least} for {classes} classes of '
            f'offsets and output_size {bins}, got {input.shape[1]}'
        )
    options = bins, float(spatial_scale), sampling_ratio
    return options if name == 'ps_roi_pool' else (*options, float(gamma))


@torch.library.register_fake('ops_dcnv3::deform_roi_pool')
def _(input, rois, offset, mask, output_size, *options):
    return input.new_empty((rois.shape[0], input.shape[1], *output_size))


@torch.library.register_fake('ops_dcnv3::ps_roi_pool')
def _(input, rois, output_size, *options):
    return input.new_empty((rois.shape[0], input.shape[1] // (output_size[0] * output_size[1]), *output_size))


@torch.library.register_fake('ops_dcnv3::deform_ps_roi_pool')
def _(input, rois, offset, output_size, *options):
    return input.new_empty((rois.shape[0], input.shape[1] // (output_size[0] * output_size[1]), *output_size))


@torch.library.register_fake('ops_dcnv3::deform_roi_pool_backward')
def _(grad_output, input, rois, offset, mask, *options_and_output_mask):
    wanted = options_and_output_mask[-1]
    gradients = zip((input, offset, mask), wanted, strict=True)
    return tuple(input.new_empty(tensor.shape if want else (0,)) for tensor, want in gradients)


@torch.library.register_fake('ops_dcnv3::ps_roi_pool_backward')
def _(grad_output, input, rois, output_size, spatial_scale, sampling_ratio, output_mask):
    return input.new_empty(input.shape if output_mask[0] else (0,))


@torch.library.register_fake('ops_dcnv3::deform_ps_roi_pool_backward')
def _(grad_output, input, rois, offset, *options_and_output_mask):
    wanted = options_and_output_mask[-1]
    gradients = zip((input, offset), wanted, strict=True)
    return tuple(input.new_empty(tensor.shape if want else (0,)) for tensor, want in gradients)


def _join_images(tensors, batches):
    """For torch.func.vmap: of the images of all batches, the index that each RoI then means."""
    input, rois, *others = tensors
    images = input.shape[0] // batches
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))
    index, box = rois.unflatten(0, (batches, rois.shape[0] // batches)).split((1, 4), dim=-1)
    first = images * torch.arange(batches, device=rois.device)[:, None, None]
    index = torch.where((index >= 0) & (index < images), index + first, -1)  # -1 is out of range, as it has been
    return input, torch.cat([index, box], dim=-1).flatten(0, 1), *others


def _deform_roi_pool(input, rois, offset, mask, *options):
    return reference.deform_roi_pool(input, rois, offset, *options, mask=mask)


_SPECIFICATIONS = {
    'deform_roi_pool': _deform_roi_pool,
    'ps_roi_pool': reference.ps_roi_pool,
    'deform_ps_roi_pool': reference.deform_ps_roi_pool,
}
_COMPILED = {
    name: differentiable(name, _SPECIFICATIONS[name], tensors=tensors, by=by, join=_join_images)
    for name, tensors, by in (
        ('deform_roi_pool', 4, (0, 2, 3)),
        ('ps_roi_pool', 2, (0,)),
        ('deform_ps_roi_pool', 3, (0, 2)),
    )
}
