"""What is timed: operators, layers and networks, ours and their peers, on the same inputs."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops_dcnv3 import DCNv3, dcnv3, deform_ps_roi_pool, deform_roi_pool, reference

from ..errors import UserError
from ..network import VARIANTS as VARIANTS_OF_THE_NETWORK
from ..network import build_variant
from .measuring import Case, Machine, contender

# Channels and groups of the first stage (stage i has 2^i times as many) and options of the layer; then the networks of
# timm that are about as large.
_LAYER_OPTIONS = ('offset_scale', 'dw_kernel_size', 'center_feature_scale')
_PEERS = dict(
    small=['convnext_tiny', 'swin_tiny'],
    t=['convnext_tiny', 'swin_tiny'],
    s=['convnext_small'],
    b=['convnext_base'],
    l=['convnext_large'],
    xl=['convnext_xlarge'],
    h=['convnext_xlarge'],
    g=['convnext_xlarge'],
)
VARIANTS = {
    name: (
        options['channels'],
        options['groups'][0],
        {key: options[key] for key in _LAYER_OPTIONS if key in options},
        _PEERS.get(name, ['convnext_tiny']),
    )
    for name, options in VARIANTS_OF_THE_NETWORK.items()
}
TIMM_NAMES = dict(swin_tiny='swin_tiny_patch4_window7_224')
LAYOUTS = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
# The operator, the channels and the stride of its input, the form without offsets that torchvision has.
ROI_POOLS = dict(
    deform_roi_pool=(deform_roi_pool, 256, 4, 'roi_align'),
    deform_ps_roi_pool=(deform_ps_roi_pool, 21 * 7 * 7, 16, 'ps_roi_align'),
)
PHASES = dict(
    op=('forward', 'backward'),
    roi=('forward', 'backward'),
    layer=('forward', 'fwd+bwd'),
    model=('inference',),
    train=('train',),
)
SWEEP = (56, 80, 112, 160, 224, 320, 400)


# Operator and layer


def stage_rounds(args, machine: Machine) -> Iterator[list[Case]]:
    """The stages of every variant and size, a round each; the sizes of a sweep are one round: their rows are
    compared."""
    for variant, dtype, batch in product(args.variant, args.dtype, args.batch):
        maps = [((4 * side, 4 * side), 0) for side in SWEEP] if args.sweep else product(args.size, range(4))
        maps = product(maps, PHASES[args.command])
        cases = [stage_case(variant, dtype, batch, size, i, phase, args, machine) for (size, i), phase in maps]
        # A sweep's cases are forward and backward by turns.
        yield from [cases[0::2], cases[1::2]] if args.sweep else [[case] for case in cases]


def stage_case(variant: str, dtype: str, batch: int, size, i: int, phase: str, args, machine: Machine) -> Case:
    channels, groups, *_ = VARIANTS[variant]
    shape = batch, *(math.ceil(side / (4 * 2**i)) for side in size), channels * 2**i
    labels = dict(variant=variant, image=by(size), stage=i + 1, input=by(shape), dtype=dtype, phase=phase)
    element = getattr(torch, dtype).itemsize
    output, window = math.prod(shape) * element, math.prod(shape[:3]) * groups * 2**i * 27 * element  # offset and mask
    moved = 2 * output + window if phase == 'forward' else 3 * output + 2 * window
    makers = partial(op_makers if args.command == 'op' else layer_makers, labels, shape, groups * 2**i, args, machine)
    bandwidth = dict(moved=moved) if args.command == 'op' else {}
    return Case(labels, makers, ratios_of(args.peers), work=moved, output_bytes=output, **bandwidth)


def ratios_of(peers: list[str]) -> list[tuple[str, str]]:
    """How much slower the peers are; for the floor, how much slower we are."""
    return [('ours', peer) if peer == 'depthwise' else (peer, 'ours') for peer in peers]


def by(sides) -> str:
    return 'x'.join(map(str, sides))


def op_makers(labels: dict, shape, groups: int, args, machine: Machine) -> dict[str, Callable]:
    make_inputs = partial(op_inputs, shape, groups, getattr(torch, labels['dtype']), machine.device)
    inputs = [make_inputs()]
    inputs += [make_inputs() for _ in range(machine.copies(sum(t.nbytes for t in inputs[0]), args.repeats) - 1)]

    def make(name):
        convert, op = OPERATORS[name]
        tensors = [[t.detach().requires_grad_() for t in convert(*copy, groups)] for copy in inputs]
        of_sample = lambda i: tensors[i % len(tensors)]  # noqa: E731
        return contender(lambda i: op(*of_sample(i), groups=groups), of_sample, labels['phase'])

    return {name: partial(make, name) for name in ('ours', *args.peers)}


def op_inputs(shape, groups: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets have a standard deviation of one pixel; the modulation sums to 1."""
    make = partial(torch.randn, device=device)
    mask = make(*shape[:3], groups, 9).softmax(-1).flatten(-2)
    return make(shape).to(dtype), make(*shape[:3], groups * 18).to(dtype), mask.to(dtype)


def grid_sample_dcnv3(input: Tensor, offset: Tensor, mask: Tensor, groups: int) -> Tensor:
    """DCNv3 of a 3x3 window, stride and padding 1, around `grid_sample`; 16-bit in float32, as autocast has it."""
    batch, height, width, channels = input.shape
    dtype = input.dtype
    input, offset, mask = (t.to(torch.promote_types(dtype, torch.float32)) for t in (input, offset, mask))
    size, axis = input.new_tensor([width, height]), partial(torch.arange, device=input.device)
    points = torch.cartesian_prod(axis(-1, 2), axis(-1, 2))
    rows, columns = torch.meshgrid(axis(height), axis(width), indexing='ij')
    pixel = torch.stack([columns, rows], dim=-1)[:, :, None, None]
    location = pixel + points + offset.unflatten(-1, (groups, 9, 2))  # (N, H, W, G, 9, 2), in pixels
    grid = (2 * location + 1) / size - 1
    grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(batch * groups, height * width, 9, 2)
    images = input.permute(0, 3, 1, 2).reshape(batch * groups, channels // groups, height, width)
    sampled = F.grid_sample(images, grid, align_corners=False)  # (N * G, C / G, H * W, 9)
    weights = mask.unflatten(-1, (groups, 9)).permute(0, 3, 1, 2, 4).reshape(batch * groups, 1, height * width, 9)
    output = (sampled * weights).sum(-1).reshape(batch, channels, height, width)
    return output.permute(0, 2, 3, 1).to(dtype)


def to_torchvision(input: Tensor, offset: Tensor, mask: Tensor, groups: int) -> tuple[Tensor, ...]:
    """(N, channels, H, W), contiguous; y before x, in the order of the points and in each offset; weights of one."""
    shape = input.shape[:3]
    offset = offset.reshape(*shape, groups, 3, 3, 2).transpose(4, 5).flip(-1)
    mask = mask.reshape(*shape, groups, 3, 3).transpose(4, 5)
    tensors = (t.reshape(*shape, -1).permute(0, 3, 1, 2).contiguous() for t in (input, offset, mask))
    return *tensors, input.new_ones(input.shape[-1], 1, 3, 3)


def torchvision_dcnv3(input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, groups: int) -> Tensor:
    from torchvision.ops import deform_conv2d

    with _missing_kernels():
        return deform_conv2d(input, offset, weight, padding=1, mask=mask).permute(0, 2, 3, 1)


@contextmanager
def _missing_kernels() -> Iterator[None]:
    """Some releases of torchvision raise a RuntimeError for a dtype that has no kernel."""
    try:
        yield
    except RuntimeError as error:
        raise NotImplementedError(str(error)) if 'not implemented' in str(error) else error from None


# What turns (input, offset, mask, groups), outside the timing, into the tensors that an operator takes; the operator.
OPERATORS = dict(
    ours=(lambda *tensors: tensors[:3], dcnv3),
    reference=(lambda *tensors: tensors[:3], reference.dcnv3),
    grid_sample=(lambda *tensors: tensors[:3], grid_sample_dcnv3),
    deform_conv2d=(to_torchvision, torchvision_dcnv3),
    depthwise=(
        lambda input, *_: (input.permute(0, 3, 1, 2), input.new_ones(input.shape[-1], 1, 3, 3)),  # channels_last
        lambda input, weight, groups: F.conv2d(input, weight, padding=1, groups=input.shape[1]),
    ),
)


def layer_makers(labels: dict, shape, groups: int, args, machine: Machine) -> dict[str, Callable]:
    weights, context = precision(labels['dtype'], machine.device)
    layer = spread_offsets(DCNv3(shape[3], group=groups, **VARIANTS[labels['variant']][2])).to(machine.device, weights)
    copies = machine.copies(math.prod(shape) * weights.itemsize, args.repeats)
    inputs = [torch.randn(shape, device=machine.device, dtype=weights, requires_grad=True) for _ in range(copies)]

    def make(name):
        forward = lambda i: LAYERS[name](layer, inputs[i % copies])  # noqa: E731
        leaves = lambda i: [inputs[i % copies], *layer.parameters()]  # noqa: E731
        return contender(forward, leaves, labels['phase'], context)

    return {name: partial(make, name) for name in ('ours', *args.peers)}


def step_by_step(op: Callable, layer: DCNv3, input: Tensor) -> Tensor:
    """The layer with this operator, softmax being a pass of its own."""
    value = layer.input_proj(input)
    local = layer.dw_conv(input.permute(0, 3, 1, 2))
    offset, mask = layer.offset(local), layer.mask(local).unflatten(-1, (layer.group, -1)).softmax(-1).flatten(-2)
    x = op(value, offset, mask.to(offset.dtype), groups=layer.group, offset_scale=layer.offset_scale)
    if layer.center_feature_scale:
        scale = F.linear(local, layer.center_feature_scale_proj_weight, layer.center_feature_scale_proj_bias).sigmoid()
        x = torch.lerp(x, value.to(x.dtype), scale.repeat_interleave(layer.group_channels, dim=-1).to(x.dtype))
    return layer.output_proj(x)


def separable(layer: DCNv3, input: Tensor) -> Tensor:
    """The floor: the layer's depthwise convolution between its projections, (N, H, W, C) in memory throughout."""
    x = layer.dw_conv[0](layer.input_proj(input).permute(0, 3, 1, 2))
    return layer.output_proj(x.permute(0, 2, 3, 1))


LAYERS = dict(
    ours=lambda layer, input: layer(input),
    unfused=partial(step_by_step, dcnv3),
    reference=partial(step_by_step, reference.dcnv3),
    depthwise=separable,
)


def check_operators(peers: list[str], device: torch.device) -> None:
    """Peers compute what ours computes: otherwise the comparison would mean nothing."""
    inputs = [t.requires_grad_() for t in op_inputs((2, 5, 7, 12), 3, torch.float64, device)]

    def run(name):
        convert, op = OPERATORS[name]
        return op(*convert(*inputs, 3), groups=3)

    check_equal(run, inputs, peers)


def check_layers(peers: list[str], device: torch.device) -> None:
    for options in (dict(), VARIANTS['l'][2], VARIANTS['h'][2]):
        layer = spread_offsets(DCNv3(12, group=3, **options)).to(device, torch.float64)
        input = torch.randn(2, 5, 7, 12, dtype=torch.float64, device=device, requires_grad=True)
        run = lambda name, layer=layer, input=input: LAYERS[name](layer, input)  # noqa: E731
        check_equal(run, [input, *layer.parameters()], peers)


def check_equal(run: Callable[[str], Tensor], leaves: list[Tensor], peers: list[str]) -> None:
    results = {}
    for name in ('ours', *(peer for peer in peers if peer != 'depthwise')):
        output = run(name)
        results[name] = [output, *torch.autograd.grad(output.sin().sum(), leaves)]
        for ours, other in zip(results['ours'], results[name], strict=True):
            if not torch.allclose(ours, other, rtol=1e-7, atol=1e-7):
                raise RuntimeError(f'{name} does not compute what ours does: {(ours - other).abs().max():.2g} apart')


def spread_offsets(module: nn.Module) -> nn.Module:
    """DCNv3 layers start at the regular grid, where training does not leave them: offsets of about a pixel instead."""
    for layer in module.modules():
        if isinstance(layer, DCNv3):
            for linear in (layer.offset, layer.mask):
                nn.init.normal_(linear.weight, std=1.5 * layer.channels**-0.5)
    return module


def precision(dtype: str, device: torch.device) -> tuple[torch.dtype, Callable]:
    """Dtype of the weights, context of the calls: 16-bit is autocast over float32 weights."""
    if dtype in ('float32', 'float64'):
        return getattr(torch, dtype), nullcontext
    return torch.float32, partial(torch.autocast, device.type, getattr(torch, dtype))


# RoI pooling


def roi_rounds(args, machine: Machine) -> Iterator[list[Case]]:
    axes = args.variant, args.size, args.dtype, args.batch, PHASES['roi']
    for variant, size, dtype, batch, phase in product(*axes):
        _, channels, stride, peer = ROI_POOLS[variant]
        shape = batch, channels, *(math.ceil(side / stride) for side in size)
        labels = dict(variant=variant, input=by(shape), rois=args.rois, dtype=dtype, phase=phase)
        makers = partial(roi_makers, labels, shape, args, machine)
        ratios = [(peer, 'ours')] if peer in args.peers else []
        yield [Case(labels, makers, ratios, work=args.rois * channels)]


def roi_makers(labels: dict, shape, args, machine: Machine) -> dict[str, Callable]:
    op, _, stride, peer = ROI_POOLS[labels['variant']]
    make_inputs = partial(roi_inputs, shape, stride, args.rois, getattr(torch, labels['dtype']), machine.device)
    inputs = [make_inputs() for _ in range(machine.copies(math.prod(shape) * 4, args.repeats))]

    def make(name):
        run = partial(torchvision_pool, peer) if name == peer else op
        of_sample = lambda i: inputs[i % len(inputs)]  # noqa: E731
        leaves = lambda i: [t for t in of_sample(i) if t.requires_grad][: 1 if name == peer else None]  # noqa: E731
        return contender(lambda i: run(*of_sample(i), 7, 1 / stride), leaves, labels['phase'])

    return {name: partial(make, name) for name in ('ours', peer) if name == 'ours' or name in args.peers}


def roi_inputs(
    shape, stride: int, count: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Map, RoIs, offsets: sides of 16 to 512 image pixels, on any scale alike; offsets of a standard deviation of 1."""
    batch, _, height, width = shape
    rand = partial(torch.rand, device=device)
    middle = rand(count, 2) * stride * torch.tensor([width, height], device=device)
    half = 8 * 32 ** rand(count, 2)
    rois = torch.cat([torch.randint(batch, (count, 1), device=device), middle - half, middle + half], dim=1)
    make = lambda *shape: torch.randn(shape, device=device).to(dtype).requires_grad_()  # noqa: E731
    return make(*shape), rois, make(count, 2, 7, 7)


def torchvision_pool(name: str, input: Tensor, rois: Tensor, offset: Tensor, bins: int, spatial_scale: float) -> Tensor:
    """torchvision's regular pool; it wants boxes in the dtype of the input."""
    from torchvision import ops

    aligned = dict(aligned=True) if name == 'roi_align' else {}
    with _missing_kernels():
        return getattr(ops, name)(input, rois.to(input.dtype), bins, spatial_scale, **aligned)


def check_roi_pools(peers: list[str], device: torch.device) -> None:
    """At zero offset a peer computes what ours does."""
    for op, channels, _, peer in ROI_POOLS.values():
        input, rois, offset = roi_inputs((2, channels, 9, 13), 4, 20, torch.float64, device)
        zero = torch.zeros_like(offset)
        pools = {'ours': op, peer: partial(torchvision_pool, peer)}
        inputs = input, rois.double(), zero
        run = lambda name, pools=pools, inputs=inputs: pools[name](*inputs, 7, 0.25)  # noqa: E731
        check_equal(run, [input], [peer] if peer in peers else [])


# Whole networks


def network_rounds(args, machine: Machine) -> Iterator[list[Case]]:
    for variant, size, dtype, batch in product(args.variant, args.size, args.dtype, args.batch):
        peers = args.peers or VARIANTS[variant][3]
        labels = dict(variant=variant, image=by(size), batch=batch, dtype=dtype, phase=PHASES[args.command][0])
        makers = partial(network_makers, labels, size, peers, args, machine)
        yield [Case(labels, makers, [('ours', peer) for peer in peers], work=batch * math.prod(size))]


def network_makers(labels: dict, size, peers: list[str], args, machine: Machine) -> dict:
    weights, context = precision(labels['dtype'], machine.device)
    batch, train = labels['batch'], labels['phase'] == 'train'
    copies = machine.copies(batch * 3 * math.prod(size) * weights.itemsize, args.repeats)

    def make(build, layout):
        factory = dict(device=machine.device, dtype=weights, memory_format=LAYOUTS[layout])
        network = build().to(**factory).train(train)
        images = [torch.randn(batch, 3, *size).to(**factory) for _ in range(copies)]
        parameters = list(network.parameters())

        def forward(i):
            features = network(images[i % copies])
            return sum(feature.square().mean() for feature in features) if train else features

        facts = dict(layout=layout, parameters=sum(p.numel() for p in parameters))
        return contender(forward, lambda i: parameters, labels['phase'], context, **facts)

    builders = dict(ours=partial(intern_image, labels['variant']))
    builders |= {peer: partial(timm_backbone, peer, size) for peer in peers}
    pairs = product(builders.items(), LAYOUTS)
    return {f'{name} {layout}': partial(make, build, layout) for (name, build), layout in pairs}


def intern_image(variant: str) -> nn.Module:
    """As in detection configs: their layer scale starts at 1, where a variant has one."""
    options = dict(layer_scale=1.0) if variant in ('t', 's', 'b', 'l', 'xl') else {}
    return spread_offsets(build_variant(variant, drop_path_rate=0.0, **options))


def timm_backbone(name: str, size: tuple[int, int]) -> nn.Module:
    """timm's network without its head. Attention in windows wants the image size beforehand; others do not take it."""
    import timm

    build = partial(timm.create_model, TIMM_NAMES.get(name, name), features_only=True, drop_path_rate=0.0)
    reason = None
    for options in (dict(img_size=size, strict_img_size=False), dict(img_size=size), dict()):
        try:
            return build(**options)
        except TypeError as error:
            reason = error
        except (RuntimeError, ValueError, AssertionError, AttributeError) as error:
            reason = error
            break
    raise UserError(f'--peers {name}: timm builds no feature extractor for {by(size)} images: {reason}') from reason
