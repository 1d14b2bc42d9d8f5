"""What a model costs: parameters, FLOPs and memory, per module and in total, without running or allocating anything.

The model is built and run on torch's fake tensors, which have a shape and no data, so that the largest models are
counted in seconds on any machine.

Conventions, those of the published tables:

* One multiply-add is one FLOP. Matrix products and convolutions are counted, by torch's own `FlopCounterMode`; biases,
  norms, activations, softmax, sums and interpolation are not.
* Sampling between pixels is counted with 4 FLOPs per value, and one more where it is weighted: DCNv3 costs
  5 * N * H_out * W_out * P * C (P points), a deformable convolution 4 (modulated: 5) per sampled value beside its
  products, a RoI pool 4 (modulated: 5) per sampled value, 2 x 2 samples per bin where `sampling_ratio` is 0,
  multi-scale deformable attention 4 per sampled value.
"""

import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from math import prod
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from .._compat import NEEDS_DATA, FakeTensors


@dataclass(frozen=True)
class Cost:
    """``parameters``: how many. ``flops``: of one forward pass. ``activations``: bytes kept by it for the backward."""

    parameters: int
    flops: int
    activations: int


@dataclass(frozen=True)
class Complexity:
    """What one forward pass of a model costs.

    ``shape`` (height, width) of the image; ``modules``: Cost by module name in the model's order, '' being the whole;
    ``memory``: bytes of a training step of one image, by what they are for, everything in float32.
    """

    model: str
    shape: tuple[int, int]
    modules: dict[str, Cost]
    memory: dict[str, int]

    @property
    def total(self) -> Cost:
        return self.modules['']

    def table(self, depth: int = 2) -> str:
        """Modules down to `depth`, and the memory of a training step."""
        rows = [('module', 'parameters', 'FLOPs', 'activations')]
        for name, cost in self.modules.items():
            level = name.count('.') + 1 if name else 0
            if level <= depth:
                label = '  ' * level + name.rpartition('.')[2] if name else self.model
                rows.append((label, si(cost.parameters), si(cost.flops), mib(cost.activations)))
        memory = [(f'memory, {self.shape[0]}x{self.shape[1]}, batch 1', 'float32')]
        sizes = {**self.memory, 'sum': sum(self.memory.values())}
        memory += [(f'  {name}', mib(size)) for name, size in sizes.items()]
        return f'{_aligned(rows)}\n\n{_aligned(memory)}'

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def count(
    build: Callable[[], nn.Module],
    shape: tuple[int, int],
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    forward: Callable[[nn.Module, Tensor], object] | None = None,
) -> Complexity:
    """The cost of the model that `build` returns, on one image (1, 3, height, width) of `shape` (height, width).

    The pass is one of evaluation (no dropout), with gradients.

    Args:
        optimizer: makes the optimizer of some parameters, such as ``torch.optim.AdamW``, for the memory of its state.
        forward: called as ``forward(model, image)`` in the place of ``model(image)``.

    Raises:
        ValueError: the shape is not one, or the model cannot be run without data.
    """
    if len(shape) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in shape):
        raise ValueError(f'shape must be two positive integers, height and width, got {shape!r}')
    with (
        patch.object(torch, '_shape_as_tensor', lambda tensor: torch.tensor(tensor.shape)),
        warnings.catch_warnings(),
        FakeTensors(),
    ):
        warnings.filterwarnings('ignore', 'Accessing the data pointer of FakeTensor')  # copy.deepcopy of a layer does
        counter, activations = FlopCounterMode(display=False, custom_mapping=_formulas()), {}
        try:
            network = _Network(build(), forward).eval()
            with counter, _saved_tensors(network, counter, activations):
                network(torch.empty(1, 3, *shape))
        except NEEDS_DATA as error:
            raise ValueError(
                'this model cannot be counted: its control flow or a shape depends on the values of a tensor, and '
                f'counting has none ({error.func})'
            ) from error
    flops = {name: sum(by_op.values()) // 2 for name, by_op in counter.get_flop_counts().items()}
    modules = {}
    _collect(network.model, '', flops, activations, modules, set())
    parameters = list(network.model.parameters())
    weights = [*parameters, *network.model.buffers()]
    gradients = _bytes(p for p in parameters if p.requires_grad)
    memory = dict(parameters=_bytes(weights), gradients=gradients)
    memory['optimizer'] = int(gradients * _states_per_parameter(optimizer)) if optimizer else 0
    memory['activations'] = modules[''].activations
    return Complexity(type(network.model).__name__, tuple(shape), modules, memory)


class _Network(nn.Module):
    """A model with the forward pass that counts."""

    def __init__(self, model: nn.Module, forward: Callable | None):
        super().__init__()
        self.model = model
        self.run = forward

    def forward(self, image: Tensor):
        return self.run(self.model, image) if self.run else self.model(image)


def _saved_tensors(network: nn.Module, counter: FlopCounterMode, by_module: dict[str, int]):
    """A context that counts the bytes autograd keeps, each piece of memory once, for the modules that are running when
    it is kept first. The network's own parameters and buffers are not counted."""
    kept = {t.untyped_storage()._cdata: t for t in network.state_dict(keep_vars=True).values()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in kept:
            kept[storage._cdata] = tensor  # alive, so that no other memory takes its place
            for name in counter.mod_tracker.parents:
                by_module[name] = by_module.get(name, 0) + storage.nbytes()
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def _collect(module, name, flops, activations, modules, seen) -> None:
    """Fills `modules` with the Cost of the module and of all below it that cost anything."""
    modules[name] = None  # the place in the order
    children = []
    for child_name, child in module.named_children():
        if child not in seen:
            seen.add(child)
            child_name = f'{name}.{child_name}' if name else child_name
            _collect(child, child_name, flops, activations, modules, seen)
            children += [modules[child_name]] if child_name in modules else []
    key = f'_Network.model.{name}' if name else 'Global'
    # A module that is not called, a container or a head by its parts, is the sum of its children.
    modules[name] = Cost(
        sum(p.numel() for p in module.parameters()),
        flops.get(key, sum(child.flops for child in children)),
        activations.get(key, sum(child.activations for child in children)),
    )
    if name and modules[name] == Cost(0, 0, 0):
        del modules[name]


def _states_per_parameter(optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]) -> float:
    """How many numbers an optimizer keeps for each parameter, asked of the optimizer itself."""
    parameter = nn.Parameter(torch.zeros(4, 4))
    parameter.grad = torch.zeros(4, 4)
    built = optimizer([parameter])
    built.step()
    states = [s for s in built.state[parameter].values() if isinstance(s, Tensor) and s.dim() > 0]
    return sum(s.numel() for s in states) / parameter.numel()


def _bytes(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


# Formulas for what FlopCounterMode does not know, in its unit: two per multiply-add. Arguments come as shapes.


def _formulas() -> dict:
    ops = torch.ops
    torchvision = {}
    if hasattr(ops.torchvision, 'roi_align'):  # where torchvision was imported
        torchvision = {
            ops.torchvision.roi_align: _roi_align_flop,
            ops.torchvision.deform_conv2d: _deform_conv2d_flop,
        }
    return {
        **torchvision,
        ops.ops_dcnv3.dcnv3: _dcnv3_flop,
        ops.ops_dcnv3.deform_roi_pool: _deform_roi_pool_flop,
        ops.ops_dcnv3.ps_roi_pool: _ps_roi_pool_flop,
        ops.ops_dcnv3.deform_ps_roi_pool: _deform_ps_roi_pool_flop,
        ops.ops_dcnv3.ms_deform_attn: _ms_deform_attn_flop,
        ops.aten.grid_sampler_2d: lambda *args, out_shape, **kwargs: 2 * 4 * prod(out_shape),
        ops.aten._scaled_dot_product_flash_attention_for_cpu: (
            lambda query, key, value, *args, out_shape, **kwargs: sdpa_flop_count(query, key, value)
        ),
    }


def _dcnv3_flop(input, offset, mask, *args, out_shape, **kwargs) -> int:
    groups = args[4]
    points = mask[-1] // groups
    return 2 * 5 * points * prod(out_shape)


def _deform_roi_pool_flop(input, rois, offset, mask, size, scale, sampling_ratio, *args, out_shape, **kwargs) -> int:
    return 2 * (4 if mask is None else 5) * (sampling_ratio or 2) ** 2 * prod(out_shape)


def _ps_roi_pool_flop(input, rois, size, scale, sampling_ratio, *args, out_shape, **kwargs) -> int:
    return 2 * 4 * (sampling_ratio or 2) ** 2 * prod(out_shape)


def _deform_ps_roi_pool_flop(input, rois, offset, size, scale, sampling_ratio, *args, out_shape, **kwargs) -> int:
    return 2 * 4 * (sampling_ratio or 2) ** 2 * prod(out_shape)


def _ms_deform_attn_flop(value, shapes, starts, locations, weights, *args, out_shape, **kwargs) -> int:
    return 2 * 4 * prod(weights[3:]) * prod(out_shape)


def _roi_align_flop(input, rois, scale, height, width, sampling_ratio, *args, out_shape, **kwargs) -> int:
    return 2 * 4 * (sampling_ratio if sampling_ratio > 0 else 2) ** 2 * prod(out_shape)


def _deform_conv2d_flop(input, weight, offset, mask, *args, out_shape, **kwargs) -> int:
    use_mask = args[-1]
    sampled = input[1] * prod(weight[2:]) * out_shape[0] * prod(out_shape[2:])
    return 2 * (prod(out_shape) * prod(weight[1:]) + (5 if use_mask else 4) * sampled)


# Printing


def si(number: float) -> str:
    """12345678 -> '12.3 M': three digits and the unit of a thousand (K), million, billion (G) or trillion (T)."""
    for unit in ('', 'K', 'M', 'G', 'T'):
        if number < 999.5 or unit == 'T':
            break
        number /= 1000
    if not unit:
        return str(int(number))
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f'{number:.{digits}f} {unit}'


def mib(size: int) -> str:
    return f'{size / 2**20:,.1f} MiB'


def _aligned(rows: list[tuple[str, ...]]) -> str:
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
        '  '.join([label.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for label, *cells in rows
    )
