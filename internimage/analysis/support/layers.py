"""Which modules sample, and where their samples are on the image.

A layer that has a method ``sampling`` (:class:`ops_dcnv3.Sampling` describes it) speaks for itself: all those of
``ops_dcnv3`` do. For the layers of other packages :func:`register_layer` adds one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops_dcnv3 import DCNv3, Sampling, sampling_window


@dataclass(frozen=True)
class _Foreign:
    offset_layer: str
    sampling: Callable[..., Sampling | Sequence[Sampling]]


_FOREIGN: dict[type, _Foreign] = {}


def register_layer(
    kind: type[nn.Module], offset_layer: str, sampling: Callable[..., Sampling | Sequence[Sampling]]
) -> None:
    """Makes the layers of a class of another package known: the name of the submodule that predicts their offsets, and
    what their method ``sampling`` would be. Of several maps that are sampled ``sampling`` gives one Sampling each."""
    _FOREIGN[kind] = _Foreign(offset_layer, sampling)


def _foreign(module: nn.Module) -> _Foreign | None:
    return next((_FOREIGN[kind] for kind in type(module).__mro__ if kind in _FOREIGN), None)


def is_deformable(module: nn.Module) -> bool:
    """Whether it says where it samples."""
    return (hasattr(module, 'sampling') and hasattr(module, 'offset_layer')) or _foreign(module) is not None


def is_plain_convolution(module: nn.Module) -> bool:
    """Whether it is a convolution over images that can count as a deformable one with zero offsets."""
    return isinstance(module, nn.Conv2d) and module.padding_mode == 'zeros'


def offset_layer(module: nn.Module) -> nn.Module:
    """The submodule that predicts the offsets of a deformable layer."""
    foreign = _foreign(module)
    return module.get_submodule(foreign.offset_layer if foreign else module.offset_layer)


def sampling(module: nn.Module, inputs: tuple, options: dict, predicted: Tensor | None = None) -> list[Sampling]:
    """Where one call of a deformable layer, or of a plain convolution, samples; one Sampling for each map it reads."""
    foreign = _foreign(module)
    if foreign:
        ask = partial(foreign.sampling, module)
    else:
        ask = module.sampling if is_deformable(module) else partial(_plain, module)
    said = ask(*inputs, **options, predicted=predicted)
    return [said] if isinstance(said, Sampling) else list(said)


def channels_of(module: nn.Module) -> int | None:
    """Which dimension of the module's output has the channels, where that is known."""
    if isinstance(module, DCNv3):
        return 3
    return 1 if isinstance(module, nn.Conv2d) else None


def _padding(module: nn.Conv2d) -> tuple[int, int]:
    """(height, width), on the upper and left side."""
    if module.padding == 'valid':
        return 0, 0
    if module.padding == 'same':
        return tuple(d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))
    return module.padding


def _plain(layer: nn.Conv2d, input: Tensor, predicted: Tensor | None = None) -> Sampling:
    """A plain convolution as a deformable one whose offsets, `predicted` (N, H_out, W_out, 1, P, 2), are zero; the
    points run row by row."""
    padding = _padding(layer)
    size = [
        (side + (2 * p if layer.padding != 'same' else d * (k - 1)) - d * (k - 1) - 1) // s + 1
        for side, k, s, p, d in zip(
            input.shape[2:], layer.kernel_size, layer.stride, padding, layer.dilation, strict=True
        )
    ]
    middle, points = sampling_window(size, layer.kernel_size, layer.stride, padding, layer.dilation, like=input)
    points = points.flatten(0, 1)
    offset = input.new_zeros(len(input), *size, 1, len(points), 2) if predicted is None else predicted
    return Sampling(
        offset,
        middle[:, :, None, None] + points,
        input.new_ones(()),
        input.new_ones(offset.shape[:-1]),
        tuple(input.shape[2:]),
    )


def plain_gradient(layer: nn.Conv2d, input: Tensor, gradient: Tensor) -> Tensor:
    """The gradient by the places at which a plain convolution samples, (N, H_out, W_out, 1, P, 2), from that by its
    output. As in the deformable operators the slope at a pixel is that to the next one, and the image is zero outside.
    """
    rows, columns = layer.kernel_size
    # A pixel more on each side, which is read by none but gives the slope at the border.
    height, width = input.shape[2:]
    padded = F.pad(input, (0, 1, 0, 1))
    slopes = [padded[:, :, :height, 1:] - input, padded[:, :, 1:, :width] - input]
    # By what is read, (N, C, P, H_out * W_out): the transposed product with the weights.
    by_group = gradient.unflatten(1, (layer.groups, -1)).flatten(3)
    weights = layer.weight.unflatten(0, (layer.groups, -1)).flatten(3)  # (groups, out, in, P)
    by_sample = torch.einsum('ngol,goip->ngipl', by_group, weights).flatten(1, 2)
    pad_y, pad_x = _padding(layer)
    far_y = (gradient.shape[2] - 1) * layer.stride[0] + layer.dilation[0] * (rows - 1) - pad_y + 1 - height
    far_x = (gradient.shape[3] - 1) * layer.stride[1] + layer.dilation[1] * (columns - 1) - pad_x + 1 - width
    found = []
    for slope in slopes:
        slope = F.pad(slope, (pad_x, max(far_x, 0), pad_y, max(far_y, 0)))
        read = F.unfold(slope, layer.kernel_size, layer.dilation, 0, layer.stride).unflatten(1, (-1, rows * columns))
        positions = read.shape[-1]
        count = gradient.shape[2] * gradient.shape[3]
        if positions != count:  # a few more than the convolution has, at the far sides
            across = (slope.shape[3] - layer.dilation[1] * (columns - 1) - 1) // layer.stride[1] + 1
            read = read.unflatten(-1, (-1, across))[..., : gradient.shape[2], : gradient.shape[3]].flatten(-2)
        found.append((read * by_sample).sum(1))
    found = torch.stack(found, dim=-1).transpose(1, 2)  # (N, H_out * W_out, P, 2)
    return found.unflatten(1, gradient.shape[2:])[:, :, :, None]


class Geometry:
    """Where the pixels of feature maps are on the image.

    Convolutions and poolings say by their stride and padding where the middle of a window is; that is followed from
    layer to layer, for each size of map the first that has it. A map of any other size is taken to cover the image with
    equal cells. Coordinates: pixels, the centre of pixel (row, column) being the point (column, row).
    """

    def __init__(self, image_size: tuple[int, int]):
        self.image_size = image_size
        self.known = {tuple(image_size): ((1.0, 1.0), (0.0, 0.0))}  # size: (scale (x, y), shift (x, y))

    def watch(self, model: nn.Module) -> list:
        """Hooks on all modules with a window; the caller removes them."""
        return [
            module.register_forward_hook(self._follow)
            for module in model.modules()
            if hasattr(module, 'kernel_size') and hasattr(module, 'stride') and not getattr(module, 'transposed', False)
        ]

    def _follow(self, module: nn.Module, inputs: tuple, output) -> None:
        padding = getattr(module, 'pad', getattr(module, 'padding', None))
        if not inputs or not all(isinstance(t, Tensor) and t.dim() == 4 for t in (inputs[0], output)):
            return
        if padding is None:
            return
        at = slice(1, 3) if channels_of(module) == 3 else slice(2, 4)
        before, after = tuple(inputs[0].shape[at]), tuple(output.shape[at])
        if before not in self.known or after in self.known:
            return
        if isinstance(padding, str):
            padding = _padding(module)
        stride, kernel, dilation, padding = (
            _pair(value) for value in (module.stride, module.kernel_size, getattr(module, 'dilation', 1), padding)
        )
        scale, shift = self.known[before]
        middle = [d * (k - 1) / 2 - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        # (height, width) of the module, (x, y) of the geometry
        self.known[after] = (
            (scale[0] * stride[1], scale[1] * stride[0]),
            (shift[0] + scale[0] * middle[1], shift[1] + scale[1] * middle[0]),
        )

    def of(self, size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, shift), each (x, y): a point of a map of `size` times scale plus shift is in pixels of the image."""
        if tuple(size) in self.known:
            scale, shift = self.known[tuple(size)]
        else:
            scale = [whole / part for whole, part in zip(self.image_size[::-1], size[::-1], strict=True)]
            shift = [step / 2 - 0.5 for step in scale]
        return like.new_tensor(scale), like.new_tensor(shift)


def _pair(value) -> tuple:
    return (value, value) if isinstance(value, (int, float)) else tuple(value)
