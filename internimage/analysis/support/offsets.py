"""Numbers of deformable layers: how far their offsets reach, and how evenly they weigh."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .nodes import Node, SupportError, check_image, frozen
from .views import Recorder


@dataclass
class OffsetNumbers:
    """Of one group of samples of a layer, on one image.

    Attributes:
        layer, group: its name and the index of the group.
        samples: how many there are.
        mean_offset, offset_95: mean and 95th percentile of the length of the offsets, in pixels of the image.
        outside: share of the samples whose place is outside the image, from 0 to 1.
        entropy: of the modulation over the points of an output position (RoI pools: over the bins of a RoI), by that of
            equal weights, from 0 to 1, on average; 1 without modulation.
    """

    layer: str
    group: int
    samples: int
    mean_offset: float
    offset_95: float
    outside: float
    entropy: float


def offset_numbers(
    model: nn.Module, image: Tensor, node: Node | None = None, layers: Sequence[str] | None = None
) -> list[OffsetNumbers]:
    """The numbers of every group of the deformable layers, or of those in `layers`, on one image (1, 3, H, W).

    `node` says how the model is run; by default ``model(image)``.

    Raises:
        SupportError: see :func:`effective_sampling_locations`.
    """
    check_image(image)
    with frozen(model), torch.no_grad():
        with Recorder(model, image, layers) as recorder:
            (node or _run)(model, image)
        if not recorder.calls:
            raise SupportError(f'none of the layers {", ".join(recorder.names)} runs'[:500])
        parts: dict[tuple[str, int], list] = {}
        for call in recorder.calls:
            for said in call.samplings:
                for group, numbers in enumerate(_by_group(said, recorder.geometry)):
                    parts.setdefault((call.name, group), []).append(numbers)
    return [_joined(name, group, part) for (name, group), part in parts.items()]


@dataclass
class LayerPoints:
    """Where one layer samples for one pixel of its output.

    Attributes:
        layer: its name.
        places (G * P, 2): of the samples, (x, y) in pixels of the image, as in SamplingLocations.
        regular (G * P, 2): the places without offsets.
        weights (G * P,): modulation.
    """

    layer: str
    places: np.ndarray
    regular: np.ndarray
    weights: np.ndarray


def layer_points(
    model: nn.Module,
    image: Tensor,
    point: tuple[float, float],
    node: Node | None = None,
    layers: Sequence[str] | None = None,
) -> list[LayerPoints]:
    """Where each layer samples for its output pixel whose window is nearest to ``point``, (x, y) in pixels of the image
    (1, 3, H, W); layers without output pixels, such as RoI pools and attention, are left out.

    Arguments and errors as in :func:`offset_numbers`.
    """
    check_image(image)
    found = []
    with frozen(model), torch.no_grad():
        with Recorder(model, image, layers) as recorder:
            (node or _run)(model, image)
        for call in recorder.calls:
            said = call.samplings[0]
            if said.weights.dim() != 5 or len(said.weights) != 1 or said.regular.dim() > 5:
                continue
            scale, shift = recorder.geometry.of(said.size, said.offset)
            regular = said.regular.expand(said.locations[0].shape) * scale + shift
            middle = regular.mean(dim=(2, 3))
            row, column = divmod(int((middle - middle.new_tensor(point)).norm(dim=-1).argmin()), middle.shape[1])
            places = said.locations[0, row, column] * scale + shift
            found.append(
                LayerPoints(
                    call.name,
                    places.flatten(0, 1).cpu().numpy(),
                    regular[row, column].flatten(0, 1).cpu().numpy(),
                    said.weights[0, row, column].flatten().cpu().numpy(),
                )
            )
    return found


def _run(model: nn.Module, image: Tensor):
    return model(image)


def _by_group(said, geometry) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each group: lengths of the offsets, whether outside, entropies."""
    scale, shift = geometry.of(said.size, said.offset)
    length = (said.shift * scale).norm(dim=-1)
    places = said.locations * scale + shift
    limits = places.new_tensor(geometry.image_size[::-1])
    outside = ((places < -0.5) | (places > limits - 0.5)).any(-1)
    weights = said.weights.movedim(-2, 0)  # (G, N, ..., P)
    if weights.shape[-1] == 1:
        weights = weights.flatten(2)
    share = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    entropy = torch.special.entr(share).sum(-1) / max(math.log(share.shape[-1]), 1e-30)
    groups = range(len(weights))
    return [(length[..., g, :].flatten(), outside[..., g, :].flatten(), entropy[g].flatten()) for g in groups]


def _joined(name: str, group: int, parts: list) -> OffsetNumbers:
    length, outside, entropy = (torch.cat(part).double() for part in zip(*parts, strict=True))
    position = min(int(0.95 * len(length)), len(length) - 1)
    return OffsetNumbers(
        name,
        group,
        len(length),
        float(length.mean()),
        float(length.sort().values[position]),
        float(outside.mean()),
        float(entropy.mean()),
    )
