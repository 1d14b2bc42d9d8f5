"""What can be exported: a network with named outputs, and how to tell whether the exported one does the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from .comparing import Agreement, Arrays, compare_maps


class Exportable(nn.Module):
    """A network from images (N, 3, H, W), normalised, to named outputs.

    Attributes:
        names: of the outputs, in their order.
        forwards: what the modules of a class do instead of their `forward` while the network is traced: functions of
            the module and its arguments, with the same results, that keep sizes symbolic.
    """

    names: list[str]
    forwards: dict[type[nn.Module], Callable] = {}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    @contextmanager
    def traceable(self) -> Iterator[None]:
        """In here the modules of `forwards` do what stands there."""
        exchanged = [m for m in self.modules() if type(m) in self.forwards]
        try:
            for module in exchanged:
                module.forward = partial(self.forwards[type(module)], module)
            yield
        finally:
            for module in exchanged:
                vars(module).pop('forward', None)

    def reference(self, image: Tensor) -> Arrays:
        """What the network itself finds, without anything that is here for the export alone."""
        with torch.no_grad():
            return {name: value.numpy() for name, value in self(image).items()}

    def compare(self, expected: Arrays, found: Arrays) -> Agreement:
        return compare_maps(expected, found)


class Backbone(Exportable):
    """`stage0`, `stage1`, ...: the feature maps of a backbone, (N, C, H, W); of a composite one those of its lead."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.names = [f'stage{i}' for i in getattr(backbone, 'out_indices', range(4))]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.backbone(image)
        return dict(zip(self.names, features[-1] if isinstance(features[-1], tuple) else features, strict=True))


def example_image(size: tuple[int, int], batch: int, seed: int = 0) -> np.ndarray:
    """Something to look at where there is no picture: (batch, 3, H, W) float32, normalised coarse and fine noise."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(batch, 3, *size)
    for cell in (64, 16, 4, 1):
        noise = torch.randn(batch, 3, *(-(-side // cell) + 1 for side in size), generator=generator)
        image += nn.functional.interpolate(noise, scale_factor=cell, mode='bilinear')[..., : size[0], : size[1]]
    return (image / 2).numpy()
