"""A network as a graph of operators with dynamic sizes: `torch.export`, and our operators out of PyTorch's own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ops_dcnv3 import composed

from . import nms  # noqa: F401  (registers the operator)

# Of a traced image, in pixels: with less, a level of stride 64 would have one pixel, which is traced as a constant.
LEAST_SIDE = 65


def trace(network: nn.Module, image: Tensor) -> ExportedProgram:
    """The graph of `network(image)` for any batch, height and width, with our operators as they are.

    Args:
        network: takes one tensor (N, 3, H, W).
        image: an example, at least 65 x 65 pixels.
    """
    sizes = {0: Dim('batch', min=1), 2: Dim('height', min=LEAST_SIDE), 3: Dim('width', min=LEAST_SIDE)}
    with torch.no_grad():
        return torch.export.export(network, (image,), dynamic_shapes=(sizes,), strict=False)


def compose(program: ExportedProgram) -> ExportedProgram:
    """The same graph without any of our operators, and without those of PyTorch that ONNX has for fixed sizes alone."""
    return program.run_decompositions(decompositions())


def decompositions() -> dict[torch._ops.OpOverload, Callable]:
    ours = torch.ops.ops_dcnv3
    return {
        ours.dcnv3.default: composed.dcnv3,
        ours.deform_roi_pool.default: _deform_roi_pool,
        ours.ps_roi_pool.default: composed.ps_roi_pool,
        ours.deform_ps_roi_pool.default: composed.deform_ps_roi_pool,
        torch.ops.aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
    }


def _deform_roi_pool(input, rois, offset, mask, output_size, spatial_scale, sampling_ratio, gamma) -> Tensor:
    if offset is not None or mask is not None:
        return composed.deform_roi_pool(input, rois, offset, output_size, spatial_scale, sampling_ratio, gamma, mask)
    from torchvision.ops import roi_align  # an operator of ONNX

    return roi_align(input, rois, tuple(output_size), spatial_scale, sampling_ratio, aligned=True)


def adaptive_avg_pool2d(input: Tensor, output_size) -> Tensor:
    """`torch.nn.functional.adaptive_avg_pool2d` as a product with the matrices of both axes, for symbolic sizes."""
    height, width = input.shape[-2:]
    rows, columns = (_averages(size, out, input) for size, out in zip((height, width), output_size, strict=True))
    return rows @ input @ columns.t()


def _averages(size: int, out: int, like: Tensor) -> Tensor:
    """(out, size): bin i averages the pixels from floor(i * size / out) to ceil((i + 1) * size / out)."""
    index = torch.arange(out, device=like.device)[:, None]
    start, end = index * size // out, ((index + 1) * size + out - 1) // out
    pixel = torch.arange(size, device=like.device)
    return ((pixel >= start) & (pixel < end)).to(like.dtype) / (end - start)
