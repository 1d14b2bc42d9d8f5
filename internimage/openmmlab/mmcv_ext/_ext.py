"""`mmcv._ext` out of torchvision's kernels and those of `ops_dcnv3`, for an mmcv that was installed as a pure wheel.

The functions have the names, arguments and in-place results of the compiled ones: those that the configs here reach,
and soft NMS. Any other raises a RuntimeError when it is called.
"""

import numpy as np
import torch
import torchvision
from torch import Tensor

import ops_dcnv3

INSTALL = 'pip install --no-cache-dir --no-build-isolation --no-deps --force-reinstall onedl-mmcv'


def __getattr__(name: str):
    if name.startswith('__'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing(*args, **kwargs):
        raise RuntimeError(
            f'mmcv is installed without its compiled operators, and {name} is none of those that internimage has in '
            f'their place ({", ".join(sorted(SERVED))}). To compile mmcv: {INSTALL}'
        )

    missing.__name__ = name
    return missing


def get_compiler_version() -> str:
    return f'none (operators of torchvision {torchvision.__version__} and ops_dcnv3)'


def get_compiling_cuda_version() -> str:
    return torch.version.cuda or 'not available'


# Boxes


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that stay, best first; of equal scores the earlier box comes first.

    As in the compiled one a box goes where its overlap, in float32, exceeds the threshold, in float32. `offset` is
    added to widths and heights.
    """
    boxes = boxes.float()
    if offset:
        boxes = boxes.double()
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(boxes, scores.to(boxes.dtype), float(np.float32(iou_threshold)))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Fills `dets` (n, 5) with boxes and decayed scores, best first, and returns the k <= n indices of those that stay.

    `method`: 0 drops what overlaps, 1 decays its score linearly, 2 by a Gaussian of `sigma`.
    """
    box, score = boxes.detach().float().cpu().numpy(), scores.detach().float().cpu().numpy().copy()
    area = (box[:, 2] - box[:, 0] + offset) * (box[:, 3] - box[:, 1] + offset)
    order, found = np.arange(len(box)), 0  # order[:found] is final, order[found:] may still be found
    while found < len(order):
        best = found + score[order[found:]].argmax()
        order[[found, best]] = order[[best, found]]
        one, rest = order[found], order[found + 1 :]
        found += 1
        low, high = np.maximum(box[one, :2], box[rest, :2]), np.minimum(box[one, 2:], box[rest, 2:])
        inter = np.maximum(high - low + np.float32(offset), 0).prod(axis=1)
        with np.errstate(divide='ignore', invalid='ignore'):  # boxes without area overlap nothing
            overlap = inter / (area[one] + area[rest] - inter)
        if method == 2:
            decay = np.exp(-(overlap * overlap) / np.float32(sigma))
        else:
            decay = np.where(overlap >= np.float32(iou_threshold), 1 - overlap if method else np.float32(0), 1)
        score[rest] *= decay.astype(np.float32)
        order = np.concatenate([order[:found], _without_the_low(rest, score[rest] < np.float32(min_score))])
    kept = torch.from_numpy(order)
    dets[: len(order)] = torch.cat([boxes.float(), torch.from_numpy(score)[:, None]], dim=1)[kept].to(dets)
    return kept.to(boxes.device)


def _without_the_low(indices: np.ndarray, low: np.ndarray) -> np.ndarray:
    """`indices` without those where `low`: the last one takes the place of one that goes, which orders equal scores."""
    indices, low, place = list(indices), list(low), 0
    while place < len(indices):
        if low[place]:
            indices[place], low[place] = indices[-1], low[-1]
            indices.pop(), low.pop()
        else:
            place += 1
    return np.array(indices, dtype=np.int64)


# RoIAlign


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    size = aligned_height, aligned_width
    output.copy_(_roi_align(input, rois, size, spatial_scale, sampling_ratio, pool_mode, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    size = aligned_height, aligned_width
    # The gradient does not depend on the input: that of zeros does as well.
    _gradients(
        lambda input: _roi_align(input, rois, size, spatial_scale, sampling_ratio, pool_mode, aligned),
        grad_output,
        {grad_input: torch.zeros_like(grad_input)},
    )


def _roi_align(
    input: Tensor, rois: Tensor, size: tuple, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool
) -> Tensor:
    spatial_scale = float(np.float32(spatial_scale))  # as in the compiled one, for images of float64 too
    if pool_mode == 0:
        raise RuntimeError(f"roi_align: pool_mode 'max' needs mmcv's compiled operators: {INSTALL}")
    if not aligned:
        return torchvision.ops.roi_align(input, rois, size, spatial_scale, sampling_ratio)
    if rois.device.type == 'cpu' and not bool((rois[:, 3:] >= rois[:, 1:3]).all()):
        raise RuntimeError('roi_align: a RoI must have x2 >= x1 and y2 >= y1, found one that has not, or is NaN')
    return ops_dcnv3.deform_roi_pool(input, rois, None, size, spatial_scale, sampling_ratio)


# Deformable convolution, of the first kind and modulated


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **options
) -> None:
    output.copy_(_deform_conv(input, offset, weight, **options))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,  # noqa: N803
    gradInput: Tensor,  # noqa: N803
    gradOffset: Tensor,  # noqa: N803
    weight: Tensor,
    columns: Tensor,
    **options,
) -> None:
    _gradients(
        lambda input, offset: _deform_conv(input, offset, weight, **options),
        gradOutput,
        {gradInput: input, gradOffset: offset},
    )


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,  # noqa: N803
    gradWeight: Tensor,  # noqa: N803
    columns: Tensor,
    ones: Tensor,
    scale: float = 1,
    **options,
) -> None:
    _gradients(
        lambda weight: scale * _deform_conv(input, offset, weight, **options), gradOutput, {gradWeight: gradWeight}
    )


def _deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    *,
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    **_,
) -> Tensor:
    """torchvision takes the kernel's size and the numbers of groups from the shapes."""
    return torchvision.ops.deform_conv2d(
        input, offset, weight, stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW)
    )


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    **options,
) -> None:
    output.copy_(_modulated_deform_conv(input, offset, mask, weight, bias, **options))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    **options,
) -> None:
    results = {grad_input: input, grad_offset: offset, grad_mask: mask, grad_weight: weight}
    if options['with_bias']:
        results[grad_bias] = bias
    _gradients(
        lambda input, offset, mask, weight, bias=bias: _modulated_deform_conv(
            input, offset, mask, weight, bias, **options
        ),
        grad_output,
        results,
    )


def _modulated_deform_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    with_bias: bool,
    **_,
) -> Tensor:
    return torchvision.ops.deform_conv2d(
        input,
        offset,
        weight,
        bias if with_bias else None,
        stride=(stride_h, stride_w),
        padding=(pad_h, pad_w),
        dilation=(dilation_h, dilation_w),
        mask=mask,
    )


# Multi-scale deformable attention (on the CPU mmcv does not come here)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    return ops_dcnv3.ms_deform_attn(
        value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights.to(value.dtype)
    )


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    gradients = torch.ops.ops_dcnv3.ms_deform_attn_backward(
        grad_output.to(value.dtype),
        value,
        value_spatial_shapes,
        value_level_start_index,
        sampling_locations,
        attention_weights.to(value.dtype),
        [True, True, True],
    )
    for result, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        result.copy_(gradient)


# Focal loss


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    output.copy_(_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    ones = torch.ones_like(input)
    _gradients(lambda input: _focal_loss(input, target, weight, gamma, alpha), ones, {grad_input: input})


def _focal_loss(input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """(n, classes); a target that is not a class index is the background. `weight` of each class, or empty."""
    classes = torch.arange(input.shape[1], device=input.device)
    loss = torchvision.ops.sigmoid_focal_loss(input, (target[:, None] == classes).to(input.dtype), alpha, gamma)
    return loss * weight[target][:, None] if len(weight) else loss


def _gradients(function, grad_output: Tensor, results: dict[Tensor, Tensor]) -> None:
    """Writes the gradients of `function` into `results`: {where to write: argument of the function}."""
    with torch.enable_grad():
        arguments = [argument.detach().requires_grad_() for argument in results.values()]
        gradients = torch.autograd.grad(function(*arguments), arguments, grad_output)
    for result, gradient in zip(results, gradients, strict=True):
        result.copy_(gradient)


SERVED = [name for name, value in vars().items() if getattr(value, '__module__', '') == __name__ and name[0] != '_']
