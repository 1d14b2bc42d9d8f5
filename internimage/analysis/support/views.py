"""The three views of spatial support (Deformable ConvNets v2, arXiv 1811.11168, section 2 and appendix)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...files import whole_file
from .layers import (
    Geometry,
    is_deformable,
    is_plain_convolution,
    offset_layer,
    plain_gradient,
    sampling,
)
from .nodes import Node, SupportError, check_image, find_module, frozen, responses

MASS = 0.9  # of a view's strength, in the pixels that count as its area


class _View:
    """What the three results share."""

    def heat(self) -> np.ndarray:
        """(H, W): the strength of each pixel of the image."""
        raise NotImplementedError

    def area(self, mass: float = MASS) -> int:
        """How many pixels the smallest region has that holds the share `mass` of the strength."""
        return int(self.region(mass).sum())

    def region(self, mass: float = MASS) -> np.ndarray:
        """(H, W) bool: that region."""
        heat = self.heat()
        order = np.argsort(heat, axis=None)[::-1]
        held = np.cumsum(heat.ravel()[order])
        region = np.zeros(heat.size, bool)
        if held[-1] > 0:
            region[order[: np.searchsorted(held, mass * held[-1]) + 1]] = True
        return region.reshape(heat.shape)

    def inside(self, object_mask: np.ndarray) -> float:
        """The share of the strength that lies inside an object, (H, W) bool; NaN where there is no strength."""
        heat = self.heat()
        if object_mask.shape != heat.shape:
            raise SupportError(f'the mask must have the size of the image, {heat.shape}, got {object_mask.shape}')
        total = heat.sum()
        return float(heat[object_mask].sum() / total) if total > 0 else float('nan')

    def save(self, path) -> None:
        """Writes all fields to an npz file: the complete file or none."""
        with whole_file(path) as part, part.open('wb') as stream:
            np.savez_compressed(stream, **{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass
class ReceptiveField(_View):
    """Result of :func:`effective_receptive_field`.

    Attributes:
        map (H, W): per pixel of the image the norm of the derivative of the response by its channels.
        standard_error: of the map, relative: the root mean square of the pixels' standard errors by that of the map; 0
            where the map is exact.
        error_map (H, W): the standard error of each pixel.
        projections: how many backward passes were taken.
        exact: whether they were all components of the response.
    """

    map: np.ndarray
    standard_error: float
    error_map: np.ndarray
    projections: int
    exact: bool

    def heat(self) -> np.ndarray:
        return self.map


@dataclass
class SamplingLocations(_View):
    """Result of :func:`effective_sampling_locations`: K samples, strongest first.

    Attributes:
        points (K, 2): (x, y) in pixels of the image, the centre of pixel (row, column) being (column, row).
        strength (K,): norm of the derivative of the response by the place of the sample, in pixels of the map that it
            reads; modulation included.
        weights (K,): modulation of each sample.
        layer (K,): index into ``layers``.
        layers: names of the layers that were asked.
        layer_strength: of each of ``layers``, the sum of the strengths of all its samples.
        samples: how many samples the response depends on, of which the strongest K are kept.
        share: sum of ``strength`` by that of all samples, from 0 to 1.
        standard_error: relative standard error of ``strength``, as in ReceptiveField; 0 where it is exact.
        size: height and width of the image.
    """

    points: np.ndarray
    strength: np.ndarray
    weights: np.ndarray
    layer: np.ndarray
    layers: list[str]
    layer_strength: np.ndarray
    samples: int
    share: float
    standard_error: float
    size: tuple[int, int]

    def heat(self) -> np.ndarray:
        """The strengths on the four pixels around each sample, bilinearly; samples outside the image are left out."""
        height, width = self.size
        heat = np.zeros((height + 1, width + 1))
        x, y = self.points.T
        kept = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
        x, y = np.clip(x[kept], 0, width - 1), np.clip(y[kept], 0, height - 1)
        column, row = np.floor(x).astype(int), np.floor(y).astype(int)
        right, down, strength = x - column, y - row, self.strength[kept]
        for i, by_row in enumerate((1 - down, down)):
            for j, by_column in enumerate((1 - right, right)):
                np.add.at(heat, (row + i, column + j), strength * by_row * by_column)
        return heat[:height, :width]


@dataclass
class SalientRegion(_View):
    """Result of :func:`salient_region`.

    Attributes:
        mask (H, W) bool: the pixels that are left.
        error: of the response to the image in which the others are masked; at most the bound.
        bound: the bound.
        cell: side of the cells in pixels.
        evaluations: how many masked images the network has seen.
    """

    mask: np.ndarray
    error: float
    bound: float
    cell: int
    evaluations: int

    def heat(self) -> np.ndarray:
        return self.mask.astype(float)

    def region(self, mass: float = MASS) -> np.ndarray:
        return self.mask


# View 1


def effective_receptive_field(
    model: nn.Module,
    image: Tensor,
    node: Node,
    *,
    projections: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ReceptiveField:
    """How strongly each pixel of the image moves the node's response: the norm of the derivative, at pixel p

    .. math:: \\Big(\\sum_{d, c} (\\partial r_d / \\partial x_{cp})^2\\Big)^{1/2}

    over the components d of the response and the channels c of the image.

    Args:
        image (Tensor[1, 3, H, W]): as the network takes it, normalised.
        node: ``node(model, image)`` returns the response r, a scalar or a vector.
        projections: a response of more than this many components is projected onto as many random directions, of signs
            +1 and -1; the mean of the squares is an unbiased estimate of the sum over d. Else the sum is exact.
        seed: of the directions.
        progress: called with the number of backward passes done and in all.

    The model runs in evaluation mode and is left as it was.

    Raises:
        SupportError: the image is not one, the response does not depend on the image, or what the node raises.
    """
    check_image(image)
    with frozen(model), torch.enable_grad():
        image = image.detach().clone().requires_grad_()
        response = _response(model, image, node)
        squares = _Squares(response.numel(), projections)
        for (gradient,) in _gradients(response, [image], projections, seed, progress):
            squares.add([gradient.square().sum(dim=(0, 1))])
    ((field, error),) = squares.norms()
    return ReceptiveField(
        field.numpy(), _relative([(field, error)]), error.numpy(), squares.count, response.numel() <= projections
    )


def _response(model: nn.Module, image: Tensor, node: Node) -> Tensor:
    response = node(model, image)
    if not isinstance(response, Tensor) or not response.is_floating_point() or response.numel() == 0:
        raise SupportError(f'a node must return a floating-point tensor, a scalar or a vector, got {response!r:.80}')
    if not response.requires_grad:
        raise SupportError('the response of the node has no gradient: it must be computed from the image, not detached')
    return response.reshape(-1)


def _gradients(
    response: Tensor, targets: Sequence[Tensor], projections: int, seed: int, progress
) -> Iterator[list[Tensor]]:
    """The gradients by `targets` of each component of the response, or of random projections of it."""
    size = len(response)
    if size <= projections:
        directions = torch.eye(size)
    else:
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randint(0, 2, (projections, size), generator=generator) * 2 - 1
    for i, direction in enumerate(directions):
        last = i == len(directions) - 1
        found = torch.autograd.grad(response, targets, direction.to(response), retain_graph=not last, allow_unused=True)
        yield [
            torch.zeros_like(target) if gradient is None else gradient
            for target, gradient in zip(targets, found, strict=True)
        ]
        if progress:
            progress(i + 1, len(directions))


class _Squares:
    """Sums of squared derivatives over the components of a response, exact or estimated from random projections."""

    def __init__(self, size: int, projections: int):
        self.exact = size <= projections
        self.count = 0
        self.sums, self.sums_of_squares = [], []

    def add(self, squares: list[Tensor]) -> None:
        squares = [square.detach().double().cpu() for square in squares]
        if not self.count:
            self.sums = [torch.zeros_like(square) for square in squares]
            self.sums_of_squares = [torch.zeros_like(square) for square in squares]
        for total, of_squares, square in zip(self.sums, self.sums_of_squares, squares, strict=True):
            total += square
            if not self.exact:
                of_squares += square.square()
        self.count += 1

    def norms(self) -> list[tuple[Tensor, Tensor]]:
        """The square root of each sum, and its standard error."""
        found = []
        for total, of_squares in zip(self.sums, self.sums_of_squares, strict=True):
            if self.exact:
                found.append((total.sqrt(), torch.zeros_like(total)))
                continue
            mean = total / self.count
            variance = (of_squares / self.count - mean.square()).clamp(min=0) / max(self.count - 1, 1)
            norm = mean.sqrt()
            found.append((norm, torch.where(norm > 0, variance.sqrt() / (2 * norm), 0.0)))  # d sqrt(m) = dm / 2 sqrt(m)
        return found


def _relative(norms: list[tuple[Tensor, Tensor]]) -> float:
    """The root mean square of the errors by that of the values."""
    total = sum(float(norm.square().sum()) for norm, _ in norms)
    return (sum(float(error.square().sum()) for _, error in norms) / total) ** 0.5 if total > 0 else 0.0


# View 2


def effective_sampling_locations(
    model: nn.Module,
    image: Tensor,
    node: Node,
    *,
    layers: Sequence[str] | None = None,
    strongest: int = 1000,
    projections: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SamplingLocations:
    """Where the layers below a node really sample, on the image, and how strongly the response depends on each place:
    the norm of its derivative by the sample's location.

    Args:
        image, node, projections, seed, progress: see :func:`effective_receptive_field`.
        layers: names of modules, deformable layers or plain convolutions, which count as deformable ones with zero
            offsets. By default all deformable layers of the model.
        strongest: how many samples are kept.

    Raises:
        SupportError: the model has no deformable layer, a name is not that of such a module or a convolution, the
            response does not depend on any of them, or what the node raises.
    """
    check_image(image)
    with frozen(model), torch.enable_grad():
        image = image.detach().clone().requires_grad_()
        with Recorder(model, image, layers) as recorder:
            response = _response(model, image, node)
        calls = recorder.calls
        if not calls:
            raise SupportError(f'the response does not depend on any of the layers {", ".join(recorder.names)}'[:500])
        squares, reached = _Squares(response.numel(), projections), [None] * len(calls)
        # By what the offset layers predict, or, of plain convolutions, by the output; and by all outputs.
        targets = [call.target for call in calls] + [call.output for call in calls]
        for gradients in _gradients(response, targets, projections, seed, progress):
            by_place = []
            for i, call in enumerate(calls):
                by_target, by_output = gradients[i], gradients[len(calls) + i]
                by_place += [gradient.square().sum(-1) for gradient in call.by_location(by_target)]
                touched = (by_output != 0).any(call.samplings[0].channels)
                touched = touched.reshape(call.samplings[0].weights.shape[:-2])
                reached[i] = touched if reached[i] is None else reached[i] | touched
            squares.add(by_place)
        norms = squares.norms()
    return _strongest(recorder, reached, norms, strongest)


def _strongest(recorder: 'Recorder', reached: list[Tensor], norms: list[tuple], strongest: int) -> SamplingLocations:
    names = list(dict.fromkeys(call.name for call in recorder.calls))
    by_layer, samples, parts = np.zeros(len(names)), 0, []
    said = [(call, touched, s) for call, touched in zip(recorder.calls, reached, strict=True) for s in call.samplings]
    for (call, touched, one), (strength, _) in zip(said, norms, strict=True):
        index = names.index(call.name)
        by_layer[index] += float(strength.sum())
        touched = touched[..., None, None].expand(one.weights.shape).flatten().cpu()
        strength = strength.flatten().where(touched, -1.0)  # after all that the response depends on
        count = int(touched.sum())
        samples += count
        best = strength.topk(min(strongest, count)).indices
        scale, shift = recorder.geometry.of(one.size, one.offset.double())
        points = one.locations.detach().double().flatten(0, -2).cpu()[best] * scale.cpu() + shift.cpu()
        weights = one.weights.detach().double().flatten().cpu()[best]
        parts.append((points, strength[best], weights, torch.full((len(best),), index)))
    points, strength, weights, layer = (torch.cat(part) for part in zip(*parts, strict=True))
    best = strength.argsort(descending=True, stable=True)[:strongest]
    total = by_layer.sum()
    return SamplingLocations(
        points[best].numpy(),
        strength[best].numpy(),
        weights[best].numpy(),
        layer[best].numpy(),
        names,
        by_layer,
        samples,
        min(float(strength[best].sum() / total), 1.0) if total > 0 and samples > len(best) else 1.0,
        _relative(norms),
        tuple(recorder.geometry.image_size),
    )


class Recorder:
    """While the model runs within `with`, keeps each call of the layers and what their offset layers predict."""

    def __init__(self, model: nn.Module, image: Tensor, layers: Sequence[str] | None = None):
        self.layers = find_layers(model, layers)
        self.names = list(self.layers)
        self.geometry = Geometry(tuple(image.shape[2:]))
        self.model = model
        self.calls: list[_Call] = []

    def __enter__(self) -> 'Recorder':
        self._handles = self.geometry.watch(self.model)
        for name, layer in self.layers.items():
            predicted = []
            if is_deformable(layer):
                self._handles.append(offset_layer(layer).register_forward_hook(_keeper(predicted)))
            keep = self._keeper(name, predicted)
            self._handles.append(layer.register_forward_hook(keep, with_kwargs=True))
        return self

    def __exit__(self, *exception) -> None:
        for handle in self._handles:
            handle.remove()

    def _keeper(self, name: str, predicted: list[Tensor]):
        def keep(layer, inputs, options, output):
            target = predicted.pop() if is_deformable(layer) else output
            if output.requires_grad or not torch.is_grad_enabled():
                self.calls.append(_Call(name, layer, inputs, options, target, output))
            return output.clone()  # what follows may work in place

        return keep


def _keeper(kept: list[Tensor]):
    def keep(module, inputs, output):
        if torch.is_grad_enabled() and not output.requires_grad:  # constant offsets
            output = output.detach().requires_grad_()
        kept.append(output)
        return output

    return keep


@dataclass
class _Call:
    """One call of a layer. ``target``: what its offset layer has predicted, or the output of a plain convolution."""

    name: str
    layer: nn.Module
    inputs: tuple
    options: dict
    target: Tensor
    output: Tensor

    def __post_init__(self):
        with torch.no_grad():
            known = self.target if is_deformable(self.layer) else None
            self.samplings = sampling(self.layer, self.inputs, self.options, known)

    @torch.no_grad()
    def by_location(self, gradient: Tensor) -> list[Tensor]:
        """The gradients by the locations of the samples, from that by `target`."""
        if not is_deformable(self.layer):
            return [plain_gradient(self.layer, self.inputs[0], gradient)]
        arranged = sampling(self.layer, self.inputs, self.options, gradient)
        return [
            torch.where(said.unit != 0, by.offset / said.unit.where(said.unit != 0, 1), 0)
            for said, by in zip(self.samplings, arranged, strict=True)
        ]


def find_layers(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The layers of these names, by default all deformable layers.

    Raises:
        SupportError: there are none, or a module of that name does not sample.
    """
    if names is None:
        found = {name: module for name, module in model.named_modules() if is_deformable(module)}
        if not found:
            raise SupportError(
                f'{type(model).__name__} has no deformable layer; name plain convolutions as layers, which count as '
                'deformable ones with zero offsets'
            )
        return found
    found = {name: find_module(model, name) for name in names}
    for name, module in found.items():
        if not is_deformable(module) and not is_plain_convolution(module):
            raise SupportError(
                f'module {name!r} is neither a deformable layer nor a convolution: {type(module).__name__}'
            )
    return found


# View 3


def salient_region(
    model: nn.Module,
    image: Tensor,
    node: Node,
    bound: float = 0.1,
    cell: int = 16,
    *,
    fill: float | Sequence[float] | str = 0.0,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> SalientRegion:
    """The smallest region that, the rest of the image masked, keeps the response within a bound: cells of a grid are
    masked as long as the error allows it, large blocks of them first, those that change the response least first.

    The error of a vector is its cosine distance, 1 - cos(r, r_masked), that of a scalar |r - r_masked| / \\|r\\|. Two
    things hold of the result, and are verified: its error is at most the bound, and no single cell that remains can be
    masked as well without breaking the bound. It need not be the smallest of all such regions.

    Args:
        image, node: see :func:`effective_receptive_field`.
        bound: larger than 0; 0.1 in the paper.
        cell: side of the cells in pixels; those at the right and lower border may be smaller.
        fill: what masked pixels are: a number or one per channel, the default 0 being the mean colour of the data set
            for a normalised image; or 'blur', the image blurred over about two cells.
        batch: images in one pass, for nodes that take several.
        progress: called with the numbers of cells that are certain to stay or go, and of all cells.

    Raises:
        SupportError: an argument is out of its range, or what the node raises.
    """
    check_image(image)
    if not bound > 0:
        raise SupportError(f'the bound must be larger than 0, got {bound!r}')
    if isinstance(cell, bool) or int(cell) != cell or cell < 1:
        raise SupportError(f'the cell must be a whole number of pixels, at least 1, got {cell!r}')
    with frozen(model), torch.no_grad():
        search = _Search(model, image, node, int(cell), _filled(image, fill, int(cell)), batch)
        rows, columns = search.grid
        keep = torch.ones(rows, columns, dtype=torch.bool)
        error, block = 0.0, 1
        while 4 * block <= max(rows, columns):
            block *= 2
        while True:
            candidates = _blocks(keep, block)
            errors = search.errors(keep & ~candidates)
            order = errors.argsort(stable=True)
            order = order[errors[order] <= bound]
            if len(order):
                keep, error = search.mask_most(keep, candidates[order], float(errors[order[0]]), bound)
            elif block > 1:
                block //= 2
            else:
                break  # no single cell can go
            if progress:
                progress(int((~keep).sum()), keep.numel())
        mask = search.pixels(keep[None])[0, 0]
    return SalientRegion(mask.cpu().numpy(), error, float(bound), int(cell), search.evaluations)


def _filled(image: Tensor, fill, cell: int) -> Tensor:
    """What is seen where the image is masked, (1, C, H, W)."""
    if isinstance(fill, str):
        if fill != 'blur':
            raise SupportError(f"fill must be numbers or 'blur', got {fill!r}")
        side = 2 * cell + 1
        for _ in range(3):  # three averages are close to a Gaussian
            image = F.avg_pool2d(image, side, stride=1, padding=cell, count_include_pad=False)
        return image
    fill = torch.as_tensor(fill, dtype=image.dtype, device=image.device).reshape(1, -1, 1, 1)
    if fill.shape[1] not in (1, image.shape[1]):
        raise SupportError(f'fill must be one number or {image.shape[1]}, one per channel, got {fill.shape[1]}')
    return fill.expand_as(image)


def _blocks(keep: Tensor, block: int) -> Tensor:
    """What remains of each block of `block` x `block` cells, (n, rows, columns); empty blocks are left out."""
    rows, columns = keep.shape
    across = -(-columns // block)
    number = torch.arange(rows)[:, None] // block * across + torch.arange(columns) // block
    wanted = number[keep].unique()
    return (number == wanted[:, None, None]) & keep


class _Search:
    """Responses to masked images."""

    def __init__(self, model: nn.Module, image: Tensor, node: Node, cell: int, filled: Tensor, batch: int):
        self.model, self.image, self.node, self.filled = model, image, node, filled
        self.cell, self.batch, self.evaluations = cell, max(1, batch), 0
        self.grid = tuple(-(-side // cell) for side in image.shape[2:])
        self.response = responses(model, image, node)[0].double()

    def pixels(self, keep: Tensor) -> Tensor:
        """(n, rows, columns) cells to (n, 1, H, W) pixels."""
        height, width = self.image.shape[2:]
        keep = keep.to(self.image.device).repeat_interleave(self.cell, 1).repeat_interleave(self.cell, 2)
        return keep[:, None, :height, :width]

    def errors(self, keep: Tensor) -> Tensor:
        """(n,): of images in which only `keep`, (n, rows, columns), remains."""
        found = []
        for part in keep.split(self.batch) if len(keep) else ():
            images = torch.where(self.pixels(part), self.image, self.filled)
            found.append(response_error(responses(self.model, images, self.node).double(), self.response).cpu())
            self.evaluations += len(part)
        return torch.cat(found) if found else torch.empty(0)

    def mask_most(self, keep: Tensor, parts: Tensor, error: float, bound: float) -> tuple[Tensor, float]:
        """`keep` without as many of the first `parts` as the bound allows, found by halving; `error` is that without
        the first."""
        least, most = 1, len(parts)
        while least < most:
            middle = (least + most + 1) // 2
            found = float(self.errors((keep & ~parts[:middle].any(0))[None])[0])
            if found <= bound:
                least, error = middle, found
            else:
                most = middle - 1
        return keep & ~parts[:least].any(0), error


def response_error(masked: Tensor, response: Tensor) -> Tensor:
    """(n,): how far the responses (n, D) are from `response` (D,): cosine distance of vectors, relative difference of
    scalars; infinite where the response is 0 and a masked one is not."""
    if len(response) == 1:
        difference = (masked[:, 0] - response[0]).abs()
        return torch.where(difference == 0, 0.0, difference / response[0].abs())
    same = (masked == response).all(1)
    return torch.where(same, 0.0, 1 - F.cosine_similarity(masked, response[None], dim=1, eps=1e-30))
