"""Every operator out of PyTorch's own, with ``grid_sample``: for export (ONNX) and for devices without our kernels.

Signatures and results are those of :mod:`ops_dcnv3.reference`, up to rounding, but for two things: positions must be
finite, and image indices must exist. Shapes may be symbolic: :func:`torch.export.export` keeps batch, height and width
dynamic. Like the reference, nothing here touches the compiled library.

``grid_sample`` takes positions as fractions of the image, so in float32 a position in an image of n pixels is off by up
to n * 1e-7 pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# The most samples of a bin along an axis, as in the reference.
MOST_SAMPLES = 1024


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _sample(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear interpolation of (B, C, H, W) at (x, y) in pixels, each (B, R, S); outside reads 0 -> (B, C, R, S)."""
    height, width = image.shape[2:]
    grid = torch.stack([(2 * x + (1 - width)) / width, (2 * y + (1 - height)) / height], dim=-1)
    return F.grid_sample(image, grid, mode='bilinear', padding_mode='zeros', align_corners=False)


def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size=3,
    stride=1,
    padding=1,
    dilation=1,
    groups: int = 4,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    softmax: bool = False,
) -> Tensor:
    """:func:`ops_dcnv3.dcnv3` (arXiv 2211.05778, equation 2); see there for the arguments."""
    (kernel_h, kernel_w), (stride_h, stride_w) = _pair(kernel_size), _pair(stride)
    (pad_h, pad_w), (dilation_h, dilation_w) = _pair(padding), _pair(dilation)
    batch, height, width, channels = input.shape
    out_height, out_width = offset.shape[1:3]
    points = kernel_h * kernel_w - int(remove_center)
    index = torch.arange(points, device=input.device)  # x is the outer loop, y the inner one
    if remove_center:
        index = index + (index >= points // 2).long()
    grid_x = (index // kernel_h) * dilation_w - dilation_w * (kernel_w - 1) // 2
    grid_y = (index % kernel_h) * dilation_h - dilation_h * (kernel_h - 1) // 2
    columns = torch.arange(out_width, device=input.device, dtype=offset.dtype)
    rows = torch.arange(out_height, device=input.device, dtype=offset.dtype)
    middle_x = columns * stride_w + (dilation_w * (kernel_w - 1) // 2 - pad_w)
    middle_y = rows * stride_h + (dilation_h * (kernel_h - 1) // 2 - pad_h)

    def by_group(t: Tensor, last: int) -> Tensor:
        """(N, H_out, W_out, G * last) -> (N * G, H_out, W_out, last)"""
        t = t.reshape(batch, out_height, out_width, groups, last)
        return t.permute(0, 3, 1, 2, 4).reshape(batch * groups, out_height, out_width, last)

    offset = by_group(offset, 2 * points).reshape(batch * groups, out_height, out_width, points, 2)
    mask = by_group(mask, points)
    if softmax:
        mask = mask.softmax(-1)
    x = middle_x[:, None] + (grid_x + offset[..., 0]) * offset_scale
    y = middle_y[:, None, None] + (grid_y + offset[..., 1]) * offset_scale

    each = channels // groups
    image = input.permute(0, 3, 1, 2).reshape(batch * groups, each, height, width)
    sampled = _sample(image, x.flatten(2), y.flatten(2)).unflatten(3, (out_width, points))
    output = (sampled * mask[:, None]).sum(-1)  # (N * G, C / G, H_out, W_out)
    return output.reshape(batch, channels, out_height, out_width).permute(0, 2, 3, 1)


def deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    output_size,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
    mask: Tensor | None = None,
) -> Tensor:
    """:func:`ops_dcnv3.deform_roi_pool`; see there for the arguments."""
    return _roi_pool(input, rois, offset, mask, output_size, spatial_scale, sampling_ratio, gamma, False)


def ps_roi_pool(
    input: Tensor, rois: Tensor, output_size, spatial_scale: float = 1.0, sampling_ratio: int = 0
) -> Tensor:
    """:func:`ops_dcnv3.ps_roi_pool`; see there for the arguments."""
    return _roi_pool(input, rois, None, None, output_size, spatial_scale, sampling_ratio, 0.0, True)


def deform_ps_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output_size,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """:func:`ops_dcnv3.deform_ps_roi_pool`; see there for the arguments."""
    return _roi_pool(input, rois, offset, None, output_size, spatial_scale, sampling_ratio, gamma, True)


def _roi_pool(
    input, rois, offset, mask, output_size, spatial_scale, sampling_ratio, gamma, position_sensitive
) -> Tensor:
    """All kinds of RoI pooling. The samples of all RoIs, of which each has as many as it needs, are one list (T)."""
    bins_h, bins_w = _pair(output_size)
    bins = bins_h * bins_w
    batch, channels, height, width = input.shape
    classes = 1 if offset is None else offset.shape[1] // 2
    boxes = rois[:, 1:].to(input.dtype) * spatial_scale - 0.5
    size = boxes[:, 2:] - boxes[:, :2]  # (K, 2), x first, as everything that follows
    step = torch.stack([size[:, 0] / bins_w, size[:, 1] / bins_h], dim=1)
    if sampling_ratio:
        most_x = most_y = sampling_ratio
        count = torch.full_like(step, sampling_ratio)
    else:
        count = step.ceil().clamp(0, MOST_SAMPLES)
        most_x, most_y = (count[:, axis].max().long().item() for axis in (0, 1))
    sample_x, sample_y = (torch.arange(most, device=input.device) for most in (most_x, most_y))
    exists = (sample_y[:, None] < count[:, 1, None, None]) & (sample_x < count[:, 0, None, None])
    roi, *sample = exists.nonzero().unbind(1)  # T each: which RoI, and which sample of a bin, y and x

    def along(axis: int, index: Tensor, limit) -> tuple[Tensor, Tensor]:
        """Positions (T, classes * bins), clamped into the image, and whether they are read."""
        bin_index = torch.arange(bins, device=input.device)
        bin_index = bin_index % bins_w if axis == 0 else bin_index // bins_w
        start = boxes[:, axis, None] + bin_index * step[:, axis, None]  # (K, bins)
        start = start[:, None].expand(-1, classes, -1)
        if offset is not None:
            shift = offset.reshape(-1, classes, 2, bins)[:, :, axis]
            start = start + gamma * size[:, axis, None, None] * shift
        within = (index + 0.5) * (step[:, axis] / count[:, axis].clamp(min=1))[roi]
        position = start.flatten(1)[roi] + within[:, None]
        return position.clamp(0, limit - 1), (position >= -1) & (position <= limit)

    x, read_x = along(0, sample[1], width)
    y, read_y = along(1, sample[0], height)
    # One image above the other: at a clamped position the corners in the next image weigh nothing.
    y = y + (rois[:, 0].to(torch.long) * height).to(y.dtype)[roi][:, None]
    weight = (read_x & read_y) / count.prod(1)[roi][:, None]  # (T, classes * bins)
    stacked = input.transpose(0, 1)
    if position_sensitive:
        depth = channels // (classes * bins)
        maps = stacked.reshape(classes, depth, bins, batch * height, width).transpose(1, 2).flatten(0, 1)
        sampled = _sample(maps, x.t()[..., None], y.t()[..., None])[..., 0]  # (classes * bins, depth, T)
        sampled = (sampled * weight.t()[:, None]).unflatten(0, (classes, bins)).permute(3, 0, 2, 1).flatten(1, 2)
    else:
        sampled = _sample(stacked.reshape(1, channels, batch * height, width), x[None], y[None])[0]  # (C, T, bins)
        sampled = (sampled * weight).transpose(0, 1)
    empty = sampled.new_zeros(rois.shape[0], sampled.shape[1], bins)
    output = empty.index_put((roi,), sampled, accumulate=True)
    if mask is not None:
        output = output * mask.reshape(-1, 1, bins)
    return output.unflatten(2, (bins_h, bins_w))


def ms_deform_attn(
    value: Tensor,
    spatial_shapes,
    level_start_index: Tensor | None,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention (arXiv 2010.04159, equation 3), the sum of samples of several feature maps.

    Args:
        value (Tensor[N, S, heads, D]): the pixels of all levels, one level after the other.
        spatial_shapes (Tensor[levels, 2] or sequence of pairs): (H, W) of each level. For shapes that stay symbolic in
            :func:`torch.export.export`, pairs of what ``Tensor.shape`` gives.
        level_start_index: not used; it follows from the shapes.
        sampling_locations (Tensor[N, Q, heads, levels, points, 2]): (x, y) in [0, 1], of the whole map.
        attention_weights (Tensor[N, Q, heads, levels, points])

    Returns:
        Tensor[N, Q, heads * D]
    """
    batch, _, heads, depth = value.shape
    queries, levels, points = sampling_locations.shape[1], sampling_locations.shape[3], sampling_locations.shape[4]
    if isinstance(spatial_shapes, Tensor):
        spatial_shapes = spatial_shapes.tolist()
    grids = (2 * sampling_locations - 1).transpose(1, 2).flatten(0, 1)  # (N * heads, Q, levels, points, 2)
    weights = attention_weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels, points)
    maps = value.permute(0, 2, 3, 1).reshape(batch * heads, depth, -1)
    output, start = 0, 0
    for level, (height, width) in enumerate(spatial_shapes):
        image = maps[:, :, start : start + height * width].reshape(batch * heads, depth, height, width)
        start = start + height * width
        sampled = F.grid_sample(image, grids[:, :, level], padding_mode='zeros', align_corners=False)
        output = output + (sampled * weights[:, :, :, level]).sum(-1)  # (N * heads, D, Q)
    return output.reshape(batch, heads * depth, queries).transpose(1, 2)
