"""What a deformable layer says of itself: where it samples, and how much each sample weighs."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Sampling:
    """Where one call of a layer samples its input, with G groups of P points at each output position.

    Coordinates are pixels of the input, the centre of pixel (row, column) being the point (x, y) = (column, row).

    A layer that says where it samples has

    * ``offset_layer``, the name of the submodule that predicts the offsets, and
    * ``sampling(*inputs, predicted=None)``, which takes what ``forward`` takes and returns a Sampling. ``predicted`` is
      what the offset layer has given for these inputs; where None, it is run again. ``offset`` is a rearrangement of
      ``predicted`` (which may hold other things too), so that a gradient by ``predicted``, passed in its place, comes
      out as the gradient by ``offset``.

    Attributes:
        offset (Tensor[N, ..., G, P, 2]): learned, x before y, in units of ``unit``. The dimensions after N, the images
            or RoIs, are the output's positions: (H_out, W_out), bins or queries.
        regular (Tensor, broadcasts with ``offset``): the places that the layer would sample without offsets.
        unit (Tensor, broadcasts with ``offset``): pixels per unit of offset.
        weights (Tensor[N, ..., G, P]): modulation; ones where the layer has none.
        size (int, int): height and width of the input.
        channels (int): dimension of the channels in the layer's output.
    """

    offset: Tensor
    regular: Tensor
    unit: Tensor
    weights: Tensor
    size: tuple[int, int]
    channels: int = 1

    @property
    def shift(self) -> Tensor:
        """(N, ..., G, P, 2): the offsets in pixels."""
        return self.offset * self.unit

    @property
    def locations(self) -> Tensor:
        """(N, ..., G, P, 2): where the layer samples."""
        return self.regular + self.shift


def sampling_window(output_size, kernel_size, stride, padding, dilation, like: Tensor) -> tuple[Tensor, Tensor]:
    """The sampling window of a convolution: its middles (H_out, W_out, 2) in input pixels, and the places of its points
    around the middle, (kernel height, kernel width, 2); both x before y. All arguments but `like` are (height, width).
    """
    (rows, columns), (height, width) = output_size, kernel_size
    reach_y, reach_x = (d * (k - 1) // 2 for d, k in zip(dilation, kernel_size, strict=True))

    def along(count: int, step: int, start: int) -> Tensor:
        return torch.arange(count, device=like.device).to(like.dtype) * step + start

    middle = _points(along(columns, stride[1], reach_x - padding[1]), along(rows, stride[0], reach_y - padding[0]))
    return middle, _points(along(width, dilation[1], -reach_x), along(height, dilation[0], -reach_y))


def bin_centres(rois: Tensor, bins: tuple[int, int], spatial_scale: float) -> tuple[Tensor, Tensor]:
    """Of RoIs (K, 5) in image pixels: the centres of their regular bins, (K, height, width, 2), and their sizes,
    (K, 1, 1, 2), both in pixels of a feature map, x before y."""
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))
    boxes = rois[:, None, None, 1:] * spatial_scale
    size = boxes[..., 2:] - boxes[..., :2]
    (rows, columns), index = bins, torch.arange(max(bins), device=rois.device).to(rois.dtype) + 0.5
    return boxes[..., :2] - 0.5 + _points(index[:columns] / columns, index[:rows] / rows) * size, size


def _points(x: Tensor, y: Tensor) -> Tensor:
    """(len(y), len(x), 2), x before y."""
    return torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1)
