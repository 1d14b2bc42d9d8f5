"""Nodes: what of a network is asked about.

A node is any callable ``node(model, image)`` that returns the response to ``image`` (1, 3, H, W), a scalar or a vector,
as a differentiable tensor. Those of this module have a method ``batch(model, images)`` as well, which returns the
responses (B, D) to several images in one pass.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from ops_dcnv3 import deform_roi_pool

from ...errors import UserError
from .layers import channels_of

Node = Callable[[nn.Module, Tensor], Tensor]


class SupportError(UserError, ValueError):
    """A node or a view that cannot be had. The message is one line: the rule, the value received, what to do."""


class _Node:
    """What the nodes share: one image is a batch of one."""

    def __call__(self, model: nn.Module, image: Tensor) -> Tensor:
        response = self.batch(model, image)[0]
        return response[0] if len(response) == 1 else response


@dataclass
class FeatureNode(_Node):
    """A pixel of the feature map that the module ``module_name`` gives: the one whose cell holds ``point``, (x, y) in
    pixels of the image. Its response is the vector of all channels.

    The map is the module's first one where it gives several, unless ``index`` says which. The model is run by ``run``,
    ``model(images)`` where None, and no further than this module.

    Raises (on call):
        SupportError: the point is outside the image, there is no such module, or it gives no feature map.
    """

    module_name: str
    point: tuple[float, float]
    index: int = 0
    run: Callable[[nn.Module, Tensor], object] | None = None

    def batch(self, model: nn.Module, images: Tensor) -> Tensor:
        row, column = _inside(self.point, images)
        feature = feature_map(model, images, self.module_name, self.index, self.run)
        height, width = feature.shape[2:]
        return feature[:, :, row * height // images.shape[2], column * width // images.shape[3]]

    def __str__(self) -> str:
        return f'{self.module_name} at ({self.point[0]:g}, {self.point[1]:g})'


@dataclass
class BoxNode(_Node):
    """The features of ``box``, (x1, y1, x2, y2) in pixels of the image, the corner of its first pixel at (0, 0).

    ``features`` is a function ``features(model, images, box)`` that returns (B, D), such as a detector's box head, or
    the name of a module, whose feature map is pooled in ``bins`` x ``bins`` averages (RoIAlign).

    Raises (on call):
        SupportError: the box has no area or lies outside the image, or there is no such module.
    """

    box: tuple[float, float, float, float]
    features: str | Callable[[nn.Module, Tensor, tuple], Tensor]
    bins: int = 7

    def batch(self, model: nn.Module, images: Tensor) -> Tensor:
        check_box(self.box, images)
        if callable(self.features):
            return self.features(model, images, self.box)
        feature = feature_map(model, images, self.features)
        rois = feature.new_tensor([[i, *self.box] for i in range(len(images))])
        scale = feature.shape[3] / images.shape[3]
        return deform_roi_pool(feature, rois, None, self.bins, scale).flatten(1)

    def __str__(self) -> str:
        return 'box ' + ', '.join(f'{value:.0f}' for value in self.box)


@dataclass
class ScoreNode(_Node):
    """The score of the class ``label``: of the whole image, or, with ``point``, of that pixel (x, y) of the image.

    ``scores`` is a function ``scores(model, images)`` that returns (B, classes) or a map (B, classes, height, width);
    by default the model itself.

    Raises (on call):
        SupportError: the class does not exist, or the point is outside the image.
    """

    label: int
    point: tuple[float, float] | None = None
    scores: Callable[[nn.Module, Tensor], Tensor] | None = None

    def batch(self, model: nn.Module, images: Tensor) -> Tensor:
        scores = self.scores(model, images) if self.scores else model(images)
        if self.point is not None:
            row, column = _inside(self.point, images)
            if scores.dim() != 4:
                raise SupportError(f'a score at a point needs a map (B, classes, H, W), got {tuple(scores.shape)}')
            height, width = scores.shape[2:]
            scores = scores[:, :, row * height // images.shape[2], column * width // images.shape[3]]
        if scores.dim() != 2:
            raise SupportError(f'the scores must be (B, classes), got shape {tuple(scores.shape)}; give a point?')
        if not 0 <= self.label < scores.shape[1]:
            raise SupportError(f'the class must be from 0 to {scores.shape[1] - 1}, got {self.label}')
        return scores[:, self.label : self.label + 1]

    def __str__(self) -> str:
        return f'score of class {self.label}' + (f' at ({self.point[0]:g}, {self.point[1]:g})' if self.point else '')


def responses(model: nn.Module, images: Tensor, node: Node) -> Tensor:
    """(B, D): the node's responses to B images, in one pass where the node has one."""
    if hasattr(node, 'batch'):
        return node.batch(model, images)
    return torch.stack([node(model, image[None]).reshape(-1) for image in images])


def feature_map(model: nn.Module, images: Tensor, name: str, index: int = 0, run: Callable | None = None) -> Tensor:
    """(B, C, H, W): what the module called `name` gives when the model is run, which stops there."""
    module, found = find_module(model, name), []

    def keep(module, inputs, output):
        found.append(output)
        raise _Reached

    handle = module.register_forward_hook(keep)
    try:
        run(model, images) if run else model(images)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not found:
        raise SupportError(f'module {name!r} is not used when the model runs on an image')
    output = found[0]
    if not isinstance(output, Tensor):
        maps = [value for value in _flat(output) if isinstance(value, Tensor)]
        if not -len(maps) <= index < len(maps):
            raise SupportError(f'module {name!r} gives {len(maps)} feature maps, there is no number {index}')
        output = maps[index]
    if output.dim() != 4:
        raise SupportError(f'module {name!r} gives no feature map (B, C, H, W), but shape {tuple(output.shape)}')
    return output.movedim(_channels(module, output, images), 1)


class _Reached(Exception):
    """The module that is asked about has run."""


def _flat(value) -> Iterator:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        yield value
        return
    for part in value:
        yield from _flat(part)


def _channels(module: nn.Module, output: Tensor, images: Tensor) -> int:
    """Which dimension has the channels, 1 or 3: as the layer says, or such that the shape is more like the image's."""
    known = channels_of(module)
    if known is not None:
        return known
    shape = math.log(images.shape[2] / images.shape[3])
    first, last = (abs(math.log(height / width) - shape) for height, width in (output.shape[2:], output.shape[1:3]))
    return 1 if first <= last else 3


def find_module(model: nn.Module, name: str) -> nn.Module:
    """The module of that name.

    Raises:
        SupportError: there is none; the message lists the most similar names.
    """
    modules = dict(model.named_modules())
    if name in modules:
        return modules[name]
    nearest = get_close_matches(name, [key for key in modules if key], n=5, cutoff=0.3)
    hint = f'the most similar are {", ".join(nearest)}' if nearest else f'it has {", ".join(filter(None, modules))}'
    raise SupportError(f'the model has no module {name!r}; {hint}'[:500])


def _inside(point: tuple[float, float], images: Tensor) -> tuple[int, int]:
    """Row and column of the image's pixel that holds the point."""
    height, width = images.shape[2:]
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise SupportError(f'the point must be inside the image of {width} x {height} pixels, got ({x:g}, {y:g})')
    return int(y), int(x)


def check_box(box, images: Tensor) -> None:
    """Raises a SupportError for a box without area, or one that is not on the images (B, 3, H, W)."""
    height, width = images.shape[2:]
    x1, y1, x2, y2 = map(float, box)
    shown = ', '.join(f'{value:g}' for value in (x1, y1, x2, y2))
    if not all(map(math.isfinite, (x1, y1, x2, y2))) or x2 <= x1 or y2 <= y1:
        raise SupportError(f'a box must have an area, x1 < x2 and y1 < y2, got ({shown})')
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        raise SupportError(f'the box must be on the image of {width} x {height} pixels, got ({shown})')


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, its parameters without gradients; afterwards all is as before."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, want in wanted:
            parameter.requires_grad_(want)


def check_image(image: Tensor) -> None:
    """Raises a SupportError where `image` is not one image as a network takes it, (1, 3, H, W)."""
    if not isinstance(image, Tensor) or image.dim() != 4 or len(image) != 1 or not image.is_floating_point():
        got = f'{image.dtype} of shape {tuple(image.shape)}' if isinstance(image, Tensor) else type(image).__name__
        raise SupportError(f'the image must be a floating-point tensor (1, 3, H, W) as the network takes it, got {got}')
