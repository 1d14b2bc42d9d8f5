"""Every operator as readable PyTorch: the specification that the compiled kernels are tested against.

Nothing here touches the compiled library, so these functions run on any device and differentiate to any order; they are
slow and hold temporaries many times the size of the output.
"""

import torch
from torch import Tensor


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def bilinear_sample(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear interpolation; a corner outside the image reads 0.

    The centre of pixel (row r, column c) is the point (x, y) = (c, r). A point that is a whole pixel or more outside
    (or infinite) is 0; a point whose position is NaN is NaN.

    Args:
        image (Tensor[B, H, W, C])
        x, y (Tensor[B, ...]): positions in pixels.

    Returns:
        Tensor[B, ..., C]
    """
    batch, height, width, channels = image.shape
    pixels = image.reshape(batch, height * width, channels)
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    nan = x.isnan() | y.isnan()
    poison = (x.where(nan, 0) + y.where(nan, 0)) * float('nan')  # makes the gradients by such a position NaN too
    x, y = x.where(inside, 0), y.where(inside, 0)  # keeps infinities out of the arithmetic, and their gradients
    x0, y0 = x.floor().detach(), y.floor().detach()
    dx, dy = x - x0, y - y0

    def corner(row, column):
        valid = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        index = (row.long() * width + column.long()).where(valid, 0).flatten(1)[..., None]
        if pixels.shape[1] == 0:
            return image.new_zeros(*x.shape, channels)
        values = pixels.gather(1, index.expand(batch, index.shape[1], channels)).reshape(*x.shape, channels)
        return values.where(valid[..., None], 0)

    top = corner(y0, x0) * (1 - dx)[..., None] + corner(y0, x0 + 1) * dx[..., None]
    bottom = corner(y0 + 1, x0) * (1 - dx)[..., None] + corner(y0 + 1, x0 + 1) * dx[..., None]
    value = top * (1 - dy)[..., None] + bottom * dy[..., None]
    return value.where(~nan[..., None], poison[..., None])


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
    """Specification of :func:`ops_dcnv3.dcnv3` (arXiv 2211.05778, equation 2); see there for the arguments."""
    (kernel_h, kernel_w), (stride_h, stride_w) = _pair(kernel_size), _pair(stride)
    (pad_h, pad_w), (dilation_h, dilation_w) = _pair(padding), _pair(dilation)
    batch, height, width, channels = input.shape
    out_height, out_width = offset.shape[1:3]
    dtype = input.dtype
    input, offset, mask = (t.to(torch.promote_types(dtype, torch.float32)) for t in (input, offset, mask))

    # The regular grid around the middle of the window: x is the outer loop, y the inner one.
    grid = [
        (i * dilation_w - dilation_w * (kernel_w - 1) // 2, j * dilation_h - dilation_h * (kernel_h - 1) // 2)
        for i in range(kernel_w)
        for j in range(kernel_h)
        if not (remove_center and i == kernel_w // 2 and j == kernel_h // 2)
    ]
    points = len(grid)
    grid = offset.new_tensor(grid)  # (P, 2)

    middle_x = torch.arange(out_width, device=input.device) * stride_w - pad_w + dilation_w * (kernel_w - 1) // 2
    middle_y = torch.arange(out_height, device=input.device) * stride_h - pad_h + dilation_h * (kernel_h - 1) // 2
    offset = offset.reshape(batch, out_height, out_width, groups, points, 2)
    x = middle_x.to(offset)[:, None, None] + (grid[:, 0] + offset[..., 0]) * offset_scale
    y = middle_y.to(offset)[:, None, None, None] + (grid[:, 1] + offset[..., 1]) * offset_scale

    if softmax:
        mask = mask.unflatten(-1, (groups, points)).softmax(-1).flatten(-2)

    # Each group samples its own channels: (N * G, H_out, W_out, P).
    by_group = input.reshape(batch, height, width, groups, channels // groups).permute(0, 3, 1, 2, 4).flatten(0, 1)
    x, y, mask = (
        t.reshape(batch, out_height, out_width, groups, points).permute(0, 3, 1, 2, 4).flatten(0, 1)
        for t in (x, y, mask)
    )
    touches = (x > -1) & (x < width) & (y > -1) & (y < height) | x.isnan() | y.isnan()
    sampled = bilinear_sample(by_group, x, y) * mask.where(touches, 0)[..., None]
    output = sampled.sum(dim=-2)
    return output.unflatten(0, (batch, groups)).permute(0, 2, 3, 1, 4).flatten(-2).to(dtype)


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
    """Specification of :func:`ops_dcnv3.deform_roi_pool`; see there for the arguments."""
    return roi_pool(input, rois, offset, mask, output_size, spatial_scale, sampling_ratio, gamma, False)


def ps_roi_pool(
    input: Tensor, rois: Tensor, output_size, spatial_scale: float = 1.0, sampling_ratio: int = 0
) -> Tensor:
    """Specification of :func:`ops_dcnv3.ps_roi_pool`; see there for the arguments."""
    return roi_pool(input, rois, None, None, output_size, spatial_scale, sampling_ratio, 0.0, True)


def deform_ps_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output_size,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """Specification of :func:`ops_dcnv3.deform_ps_roi_pool`; see there for the arguments."""
    return roi_pool(input, rois, offset, None, output_size, spatial_scale, sampling_ratio, gamma, True)


def roi_pool(
    input, rois, offset, mask, output_size, spatial_scale, sampling_ratio, gamma, position_sensitive
) -> Tensor:
    """All kinds of RoI pooling. A RoI whose image index is out of range is 0, as on CUDA; the CPU kernels refuse it."""
    bins_h, bins_w = _pair(output_size)
    batch, channels, height, width = input.shape
    bins, dtype = bins_h * bins_w, input.dtype
    work = torch.promote_types(dtype, torch.float32)
    classes = 1 if offset is None else offset.shape[1] // 2
    depth = channels // (classes * (bins if position_sensitive else 1))  # output channels of one class
    maps = input.to(work).reshape(batch, classes, depth, -1, height, width).permute(0, 3, 1, 4, 5, 2)
    maps = maps.expand(-1, bins, -1, -1, -1, -1)  # (N, bins, classes, H, W, depth): what each bin reads
    boxes = rois.detach()[:, 1:].to(work) * spatial_scale - 0.5

    def along(axis, k, low, high, count, size):
        """Sample positions of RoI k along x (axis 0) or y (axis 1), in pixels: (bins, classes, samples)."""
        length = high - low
        step = length / count
        known = bool(low.isfinite() and step.isfinite())
        if not known:
            low = low * float('nan')
        samples = sampling_ratio or (min(max(0, int(step.ceil())), max(size, MOST_SAMPLES)) if known else 1)
        index = torch.arange(bins, device=input.device)
        start = low + (index % bins_w if axis == 0 else index // bins_w).to(work) * step
        start = start[:, None].expand(bins, classes)
        if offset is not None:
            start = start + gamma * length * offset[k].to(work).reshape(classes, 2, bins)[:, axis].t()
        return start[..., None] + (torch.arange(samples, device=input.device).to(work) + 0.5) * step / max(samples, 1)

    nothing = maps[:0].sum() + (0 if offset is None else offset[:0].sum())  # 0, for autograd a function of both
    outputs = []
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        image = int(rois[k, 0]) if 0 <= rois[k, 0] < batch else -1
        x = along(0, k, x1, x2, bins_w, width)
        y = along(1, k, y1, y2, bins_h, height)
        if image < 0 or x.shape[-1] == 0 or y.shape[-1] == 0:
            outputs.append(nothing.expand(bins, classes, depth))
            continue
        y, x = torch.broadcast_tensors(y[..., :, None], x[..., None, :])
        sampled = _sample_to_the_border(maps[image].flatten(0, 1), x.flatten(0, 1), y.flatten(0, 1))
        outputs.append(sampled.mean(dim=(1, 2)).reshape(bins, classes, depth))
    output = torch.stack(outputs) if outputs else nothing.expand(0, bins, classes, depth)
    if mask is not None:
        output = output * mask.to(work).reshape(-1, bins, 1, 1)
    return output.permute(0, 2, 3, 1).reshape(-1, classes * depth, bins_h, bins_w).to(dtype)


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Specification of :func:`ops_dcnv3.ms_deform_attn`; see there for the arguments."""
    batch, _, heads, channels = value.shape
    dtype, queries = value.dtype, sampling_locations.shape[1]
    value, locations, weights = (
        t.to(torch.promote_types(dtype, torch.float32)) for t in (value, sampling_locations, attention_weights)
    )
    output = value.new_zeros(batch * heads, queries, channels)
    for level, (shape, start) in enumerate(zip(spatial_shapes, level_start_index, strict=True)):
        # Not tolist, which torch.func of torch 2.6 refuses.
        height, width, start = int(shape[0]), int(shape[1]), int(start)
        image = value[:, start : start + height * width].transpose(1, 2).reshape(batch * heads, height, width, channels)
        at = locations[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (N * heads, Q, points, 2)
        x, y = at[..., 0] * width - 0.5, at[..., 1] * height - 0.5
        touches = (x > -1) & (x < width) & (y > -1) & (y < height) | x.isnan() | y.isnan()
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1).where(touches, 0)
        output = output + (bilinear_sample(image, x, y) * weight[..., None]).sum(dim=-2)
    return output.unflatten(0, (batch, heads)).transpose(1, 2).flatten(2).to(dtype)


# The most samples of a bin along an axis: neither a number that is asked for nor a huge box may take for ever. Only an
# image larger than that has more, for boxes as large.
MOST_SAMPLES = 1024


def _sample_to_the_border(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`bilinear_sample` as RoIAlign does it: up to a pixel outside reads the border, what lies beyond is 0."""
    height, width = image.shape[1:3]

    def clamp(position, size):
        moves = (position >= 0) & (position < size - 1)  # elsewhere the value does not depend on the position
        return position.where(moves, position.detach().clamp(0, size - 1))

    read = (x >= -1) & (x <= width) & (y >= -1) & (y <= height) | x.isnan() | y.isnan()
    return bilinear_sample(image, clamp(x, width), clamp(y, height)).where(read[..., None], 0)
