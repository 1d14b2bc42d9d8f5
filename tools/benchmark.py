"""Time and compare: always against peers measured in the same run, host overhead included.

    python tools/benchmark.py op    [--variant t s] [--size 224 800x1344] [--batch 1] [--dtype float32 bfloat16]
    python tools/benchmark.py op    --sweep                  # the first stage's channels at many sizes: ns per pixel
    python tools/benchmark.py layer [--size 224 512]
    python tools/benchmark.py roi   [--rois 1000] [--size 800x1336]
    python tools/benchmark.py model [--variant t] [--peers convnext_tiny swin_tiny]
    python tools/benchmark.py train [--batch 8]
    all:   [--device cpu|cuda] [--threads 2] [--repeats 15] [--json FILE] [--plot FILE.png]

`op` times `ops_dcnv3.dcnv3` at the shapes of InternImage's four stages, forward and backward (all gradients), against
the PyTorch reference, the same operator around `grid_sample` (the form of the official fallback), torchvision's
`deform_conv2d` and, as the floor, a depthwise 3x3 convolution. `layer` times the DCNv3 layer, `roi` deformable RoI
pooling with offsets (bins of 7x7, adaptive samples, all gradients) against torchvision's pools, which have none. These
three need torch alone. `model` and `train` time whole backbones against timm's, each in the memory layout that it is
faster in.

What stands in one row takes turns, sample by sample; rows follow each other, a sweep's too. On the CPU a sample is
the second of two calls, so that nobody pays for the caches that another one left, and freed memory is kept: glibc would
map the pages of results over 32 MB anew for each call, which takes longer than an operator. On CUDA events time single
calls from an idle GPU, and inputs rotate. A figure is the median of its samples, `spread` their (90th - 10th
percentile) / median. A ratio `a/b` is the time of a by the time of b. GB/s counts what the operator must move: forward
input, offset, mask and output, backward input, offset, mask, their gradients and the output's, each once; `of copy` is
its share of what `copy_` of 256 MB reads and writes per second. Peak is the memory that a call takes beyond what was
there before, results included.
"""

import argparse
import ctypes
import json
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import product, zip_longest
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops_dcnv3 import DCNv3, dcnv3, deform_ps_roi_pool, deform_roi_pool, reference

# Channels and groups of the first stage (stage i has 2^i times as many) and options of the layer, as they stand in
# internimage.models, which needs OpenMMLab; then the networks of timm that are about as large.
VARIANTS = dict(
    small=(32, 2, dict(), ['convnext_tiny', 'swin_tiny']),
    t=(64, 4, dict(), ['convnext_tiny', 'swin_tiny']),
    s=(80, 5, dict(), ['convnext_small']),
    b=(112, 7, dict(), ['convnext_base']),
    l=(160, 10, dict(offset_scale=2.0), ['convnext_large']),
    xl=(192, 12, dict(offset_scale=2.0), ['convnext_xlarge']),
    h=(320, 10, dict(dw_kernel_size=5, center_feature_scale=True), ['convnext_xlarge']),
    g=(512, 16, dict(dw_kernel_size=5, center_feature_scale=True), ['convnext_xlarge']),
)
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
LEAST_SAMPLES = 3
LARGE = 256 * 2**20  # bytes, more than a GPU's L2 cache holds


class UserError(Exception):
    """Something that the user can put right. The message is one line."""


@dataclass
class Case:
    """A row of the table in the making."""

    labels: dict
    makers: Callable[[], dict[str, Callable]]  # builds the inputs; each maker then builds a contender, see `contender`
    ratios: list[tuple[str, str]]  # (a, b): the time of a by the time of b
    work: int  # grows with its time, to estimate what is left
    moved: int = 0  # bytes that the operator has to move
    output_bytes: int = 0


def main() -> None:
    args = parse_args()
    machine = Machine(args.device)
    checks = dict(op=check_operators, layer=check_layers, roi=check_roi_pools)
    if args.command in checks:
        checks[args.command](args.peers, machine.device)
    environment = machine.environment()
    header = '{device} ({capability}), {threads} threads, torch {torch}; copy_ of 256 MB: {copy_gb_per_s:.1f} GB/s'
    print(header.format(**environment))
    if environment['load'] > os.cpu_count() / 2:
        note(f'other programs are at work (load {environment["load"]:.1f}, {os.cpu_count()} cores): ratios may be off')
    make_rounds = dict(op=stage_rounds, layer=stage_rounds, roi=roi_rounds).get(args.command, network_rounds)
    rounds = list(make_rounds(args, machine))
    total, done, start, rows = sum(case.work for cases in rounds for case in cases), 0, time.perf_counter(), []
    for cases in rounds:
        new = [finish(case, measure(case, machine, args), environment) for case in cases]
        for row in new:
            if args.sweep:
                row['over_fastest'] = row['ns_per_pixel'] / min(other['ns_per_pixel'] for other in new)
            print_row(args, row, header=not rows)
            rows.append(row)
        done += sum(case.work for case in cases)
        if sys.stderr.isatty() and done < total:
            left = (time.perf_counter() - start) * (total - done) / done
            print(f'{len(rows)} rows, about {left:.0f} s left ', end='\r', file=sys.stderr, flush=True)
    summary = summarise(rows)
    for line in (line for line in summary if line['rows'] > 1):
        print('{ratio}, {dtype}, {phase}: geometric mean {mean:.2f}, {least:.2f} to {greatest:.2f}'.format(**line))
    if args.json:
        result = dict(command=args.command, environment=environment, rows=rows, summary=summary)
        write_whole(args.json, lambda path: path.write_text(json.dumps(result, indent=1)))
    if args.plot:
        write_whole(args.plot, partial(plot, args, rows, environment))


# Measuring


class Machine:
    """Clock and memory of the device."""

    def __init__(self, device: torch.device):
        self.device, self.cuda = device, device.type == 'cuda'
        if self.cuda:
            torch.cuda.set_device(device)
            torch.backends.cudnn.benchmark = True
            self.flush = torch.zeros(LARGE, dtype=torch.uint8, device=device)
        elif hasattr(libc := ctypes.CDLL(None), 'mallopt'):
            M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)

    def environment(self) -> dict:
        if self.cuda:
            major, minor = torch.cuda.get_device_capability()
            device, capability = torch.cuda.get_device_name(), f'sm_{major}{minor}, CUDA {torch.version.cuda}'
        else:
            device, capability = processor(), torch.ops.ops_dcnv3.cpu_capability()
        source, target = (torch.zeros(LARGE, dtype=torch.uint8, device=self.device) for _ in range(2))
        copy = statistics.median([self.milliseconds(lambda: target.copy_(source)) for _ in range(8)][1:])
        return dict(
            device=device,
            capability=capability,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            copy_gb_per_s=2 * LARGE / copy / 1e6,
            load=os.getloadavg()[0],
        )

    def copies(self, nbytes: int, most: int) -> int:
        """How many copies of inputs of this size rotate."""
        return min(most, max(2, math.ceil(LARGE / nbytes))) if self.cuda else 1

    def milliseconds(self, call: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.perf_counter()
            call()
            return (time.perf_counter() - start) * 1e3
        self.flush.max()  # empties the L2 cache: before a backward pass it holds what the forward pass has just read
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """Memory that `call` takes, its result included; None where the system does not tell."""
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
        try:
            ctypes.CDLL(None).malloc_trim(0)  # hands freed memory back, so that the call has to ask for it
            Path('/proc/self/clear_refs').write_text('5')  # the high-water mark starts anew
            before = memory('VmRSS')
            call()
            return max(0, memory('VmHWM') - before)
        except (OSError, AttributeError):
            return None


def memory(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    return int(re.search(rf'{field}:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) * 1024


def processor() -> str:
    try:
        names = re.findall(r'model name\s*: (.*)', Path('/proc/cpuinfo').read_text())
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def measure(case: Case, machine: Machine, args) -> dict[str, dict]:
    """Figures of the case's contenders, which take turns.

    Who has no kernel or memory for the case is left out, but ours must run.
    """
    contenders = {}
    for name, make in case.makers().items():
        try:
            prepare, facts = make()
            start = time.perf_counter()
            prepare(0)()
            while time.perf_counter() - start < 0.05:  # warms up
                prepare(0)()
            contenders[name] = prepare, facts, []
        except (NotImplementedError, torch.OutOfMemoryError) as error:
            reason = str(error).splitlines()[0]
            if name.split()[0] == 'ours':
                raise UserError(f'{" ".join(map(str, case.labels.values()))}: {reason}') from error
            note(f'{name} left out: {reason}')
    spent = dict.fromkeys(contenders, 0.0)
    for i in range(args.repeats):
        for name, (prepare, _, samples) in contenders.items():
            if i < LEAST_SAMPLES or spent[name] < args.budget:
                start = time.perf_counter()
                if not machine.cuda:
                    prepare(i)()
                samples.append(machine.milliseconds(prepare(i)))
                spent[name] += time.perf_counter() - start
    figures = {}
    percentiles = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for name, (prepare, facts, samples) in contenders.items():
        low, median, high = torch.tensor(samples, dtype=torch.float64).quantile(percentiles).tolist()
        peak = machine.peak_bytes(prepare(0))
        times = dict(median_ms=median, spread=(high - low) / median, samples_ms=samples)
        figures[name] = dict(facts, **times, peak_bytes=peak)
    return figures


def contender(forward: Callable, leaves: Callable, phase: str, context=nullcontext, **facts) -> tuple[Callable, dict]:
    """What times `forward(i)` on the inputs of sample i, or its backward pass, by `leaves(i)`, or both.

    Returns a function that makes sample i ready and returns what is timed, and facts to stand with the figures.
    """

    def infer(i):
        with torch.inference_mode(), context():
            return forward(i)

    def run(i):
        with context():
            return forward(i)

    def differentiate(output, i):
        return torch.autograd.grad(output, leaves(i), grad_output, allow_unused=True)

    if phase in ('forward', 'inference'):
        return lambda i: lambda: infer(i), facts
    grad_output = torch.randn_like(run(0).detach())
    if phase == 'backward':
        return lambda i: partial(differentiate, run(i), i), facts
    return lambda i: lambda: differentiate(run(i), i), facts


def finish(case: Case, figures: dict[str, dict], environment: dict) -> dict:
    """The row: labels, figures, ratios of times; of ours also bandwidth and relative memory."""
    if 'batch' in case.labels:
        figures = in_faster_layout(figures, case.labels['batch'])
    ms = {name: figure['median_ms'] for name, figure in figures.items()}
    row = dict(case.labels, figures=figures)
    row['ratios'] = {f'{a} / {b}': ms[a] / ms[b] for a, b in case.ratios if a in ms and b in ms}
    if case.moved:
        row['gb_per_s'] = case.moved / ms['ours'] / 1e6
        row['copy_fraction'] = row['gb_per_s'] / environment['copy_gb_per_s']
    if case.output_bytes:
        peak = figures['ours']['peak_bytes']
        row['peak_outputs'] = None if peak is None else peak / case.output_bytes
        row['ns_per_pixel'] = ms['ours'] * 1e6 / math.prod(map(int, row['input'].split('x')[:3]))
    return row


@cache
def note(text: str) -> None:
    """Once each."""
    print(text, file=sys.stderr)


# Operator and layer


def stage_rounds(args, machine: Machine) -> Iterator[list[Case]]:
    """The stages of every variant and size, one by one; a sweep's sizes together, as their rows are compared."""
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

    return deform_conv2d(input, offset, weight, padding=1, mask=mask).permute(0, 2, 3, 1)


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
    """Peers compute what ours computes: a benchmark of different things would be a lie."""
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
    try:
        return getattr(ops, name)(input, rois.to(input.dtype), bins, spatial_scale, **aligned)
    except RuntimeError as error:
        raise NotImplementedError(str(error)) if 'not implemented' in str(error) else error from None


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


def in_faster_layout(figures: dict[str, dict], batch: int) -> dict[str, dict]:
    """From figures named 'network layout' to those of each network in the layout that it is faster in."""
    chosen, layouts = {}, {}
    for name, figure in sorted(figures.items(), key=lambda item: item[1]['median_ms']):
        network, layout = name.split()[0], figure['layout']
        chosen.setdefault(network, dict(figure, ms_per_image=figure['median_ms'] / batch))
        layouts.setdefault(network, {})[layout] = figure['median_ms']
    order = dict.fromkeys(name.split()[0] for name in figures)
    return {network: dict(chosen[network], layouts_ms=layouts[network]) for network in order}


def intern_image(variant: str) -> nn.Module:
    """As in detection configs: their layer scale starts at 1, where a variant has one."""
    from internimage.models import build_variant

    options = {} if variant in ('small', 'h', 'g') else dict(layer_scale=1.0)
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


# Output

WIDTHS = dict(variant=7, image=8, stage=5, input=13, batch=5, dtype=8, phase=9)


def print_row(args, row: dict, header: bool) -> None:
    """One line; for networks one for each."""
    for name in row['figures'] if 'batch' in row else ['ours']:
        make_cells = network_cells if 'batch' in row else roi_cells if 'rois' in row else stage_cells
        cells = make_cells(args, row, name)
        for line in zip_longest(*(title.split('\n') for title, _, _ in cells), fillvalue='') if header else []:
            print(' '.join(f'{title:>{width}}' for title, (_, width, _) in zip(line, cells, strict=True)))
        print(' '.join(f'{text:>{width}}' for _, width, text in cells), flush=True)
        header = False


def stage_cells(args, row: dict, name: str) -> list[tuple[str, int, str]]:
    """(title, width, text) of the columns."""
    cells = [(key, WIDTHS[key], row[key]) for key in ('variant', 'image', 'stage', 'input', 'dtype', 'phase')]
    cells += time_cells(row['figures']['ours'])
    if args.sweep:
        cells += [('ns/\npixel', 6, number(row['ns_per_pixel'])), ('over\nbest', 5, number(row['over_fastest']))]
    if 'gb_per_s' in row:
        cells += [('GB/s', 5, number(row['gb_per_s'])), ('of\ncopy', 5, number(row['copy_fraction'], 100, '%'))]
    cells.append(('peak/\noutput', 6, number(row['peak_outputs'])))
    for a, b in ratios_of(args.peers):
        cells.append((f'{a}/\n{b}', max(len(a) + 1, len(b)), number(row['ratios'].get(f'{a} / {b}'))))
    return cells


def roi_cells(args, row: dict, name: str) -> list[tuple[str, int, str]]:
    cells = [('operator', 18, row['variant']), ('input', 15, row['input']), ('rois', 6, str(row['rois']))]
    cells += [(key, WIDTHS[key], row[key]) for key in ('dtype', 'phase')]
    cells += time_cells(row['figures']['ours'])
    cells.append(('peak MB', 7, number(row['figures']['ours']['peak_bytes'], 1e-6)))
    return cells + [(f'{peer}/\nours', 13, number(row['ratios'].get(f'{peer} / ours'))) for peer in args.peers]


def network_cells(args, row: dict, name: str) -> list[tuple[str, int, str]]:
    figure = row['figures'][name]
    network = f'internimage_{row["variant"]}' if name == 'ours' else name
    return [
        ('network', 28, network),
        *((key, WIDTHS[key], row[key]) for key in ('image', 'batch', 'dtype', 'phase')),
        ('layout', 13, figure['layout']),
        *time_cells(figure),
        ('images/s', 8, number(1e3 / figure['ms_per_image'])),
        ('M params', 8, number(figure['parameters'], 1e-6)),
        ('peak MB', 7, number(figure['peak_bytes'], 1e-6)),
        ('ours/this', 9, number(row['ratios'].get(f'ours / {name}'))),
    ]


def time_cells(figure: dict) -> list[tuple[str, int, str]]:
    return [('ms', 6, number(figure['median_ms'])), ('spread', 6, number(figure['spread'], 100, '%'))]


def number(value: float | None, factor: float = 1, unit: str = '') -> str:
    """Three digits or all before the point."""
    if value is None:
        return '-'
    value *= factor
    return f'{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3}f}{unit}'


def summarise(rows: list[dict]) -> list[dict]:
    """Geometric mean and range of each ratio, by dtype and phase."""
    groups = {}
    for row in rows:
        for ratio, value in row['ratios'].items():
            groups.setdefault((ratio, row['dtype'], row['phase']), []).append(value)
    return [
        dict(ratio=r, dtype=d, phase=p, rows=len(v), mean=statistics.geometric_mean(v), least=min(v), greatest=max(v))
        for (r, d, p), v in groups.items()
    ]


def plot(args, rows: list[dict], environment: dict, path: Path) -> None:
    """Bars, a panel per phase: ratios by row, or times of networks and of the sweep."""
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot as plt

    if args.command in ('model', 'train'):
        what, bars = 'ms per image', lambda row: {n: figure['ms_per_image'] for n, figure in row['figures'].items()}
    elif args.sweep:
        what, bars = 'ns per pixel', lambda row: {'ours': row['ns_per_pixel']}
    else:
        what, bars = 'ratio of times', lambda row: row['ratios']
    keys = ('input', 'dtype') if 'input' in rows[0] else ('image', 'batch', 'dtype')
    keys = ['variant', *(key for key in keys if len({row[key] for row in rows}) > 1)]
    series = list(dict.fromkeys(name for row in rows for name in bars(row)))
    phases = {row['phase']: [r for r in rows if r['phase'] == row['phase']] for row in rows}
    width = 1 / (len(series) + 1)
    size = max(8, 2 + 0.15 * max(map(len, phases.values())) / width), 4 * len(phases)
    figure, panels = plt.subplots(len(phases), squeeze=False, figsize=size, layout='constrained')
    for panel, (phase, chosen) in zip(panels[:, 0], phases.items(), strict=True):
        for i, name in enumerate(series):
            x = [j + i * width for j in range(len(chosen))]
            drawn = panel.bar(x, [bars(row).get(name, math.nan) for row in chosen], width, label=name)
            if len(x) <= 12:
                panel.bar_label(drawn, fmt=number, fontsize=7, rotation=90, padding=2)
        centres = [j + (len(series) - 1) * width / 2 for j in range(len(chosen))]
        panel.set_xticks(centres, [' '.join(str(row[key]) for key in keys) for row in chosen], rotation=30, ha='right')
        panel.set(title=phase, ylabel=what + (' (log)' if 'ratio' in what else ''))
        panel.margins(y=0.15)
        if what == 'ratio of times':
            panel.set_yscale('log')
            panel.axhline(1, color='black', linewidth=0.8)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=min(4, len(series)))
    title = f'{args.command}: {environment["device"]}, threads: {environment["threads"]}, {", ".join(args.dtype)}'
    figure.suptitle(title)
    figure.savefig(path, format='png', dpi=120)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """All of the file or, when interrupted, nothing under its name."""
    part = path.with_name(f'.part-{path.name}')
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


# Arguments


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(message)


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    for command, what, size, batch in (
        ('op', 'the DCNv3 operator', ['224x224', '800x1344'], 1),
        ('layer', 'the DCNv3 layer', ['224x224', '800x1344'], 1),
        ('roi', 'deformable RoI pooling', ['800x1336'], 1),
        ('model', 'backbones, inference', ['224x224'], 1),
        ('train', 'backbones, forward and backward', ['224x224'], 8),
    ):
        add = commands.add_parser(command, help=what).add_argument
        add('--device', default='cpu', help='cpu, cuda or cuda:N')
        if command == 'roi':
            add('--variant', nargs='+', default=list(ROI_POOLS), choices=list(ROI_POOLS), help='default both')
            add('--rois', type=count, default=1000, help='in all images together, default 1000')
        else:
            add('--variant', nargs='+', default=['t'], choices=list(VARIANTS), help='of InternImage, default t')
        add('--size', nargs='+', metavar='HxW', help=f'of the image, default {" ".join(size)}')
        add('--batch', nargs='+', type=count, default=[batch], help=f'images, default {batch}')
        add('--dtype', nargs='+', default=['float32'], choices=['float32', 'float64', 'bfloat16', 'float16'])
        add('--threads', type=count, help="of the CPU, default torch's")
        add('--repeats', type=count, default=15, help='samples per figure, default 15')
        add('--budget', type=float, default=10.0, help='seconds per figure, at least three samples; default 10')
        add('--peers', nargs='+', help='which to compare with, default all; for model and train names of timm')
        add('--json', type=Path, metavar='FILE', help='also write all figures here')
        add('--plot', type=Path, metavar='FILE.png', help='also draw them; needs matplotlib')
        if command == 'op':
            add('--sweep', action='store_true', help=f'time per pixel of maps of {SWEEP} pixels a side')
        commands.choices[command].set_defaults(default_size=size, **({} if command == 'op' else dict(sweep=False)))
    args = parser.parse_args()
    if args.sweep and (args.size or args.peers):
        raise UserError('--sweep has sizes of its own and no peers: leave out --size and --peers')
    args.device = device_of(args.device)
    args.size = [size_of(text) for text in args.size or args.default_size]
    args.peers = peers_of(args)
    for option, path in ('--json', args.json), ('--plot', args.plot):
        if path and (not os.access(path.parent, os.W_OK) or path.is_dir()):
            raise UserError(f'{option} must be a file in a folder that exists and can be written to, got {path}')
    if args.plot and args.plot.suffix != '.png':
        raise UserError(f'--plot must end in .png, got {args.plot}')
    if args.plot and not find_spec('matplotlib'):
        raise UserError('--plot needs matplotlib: pip install matplotlib')
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number of at least 1, got {text}')
    return int(text)


def size_of(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)(?:x(\d+))?', text)
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 32:
        raise UserError(f'--size must be HxW or one number, at least 32 pixels, got {text}')
    return size


def device_of(text: str) -> torch.device:
    if not re.fullmatch(r'cpu|cuda(:\d+)?', text):
        raise UserError(f'--device must be cpu, cuda or cuda:N, got {text}')
    device = torch.device(text)
    if device.type == 'cuda':
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f'--device {text}: torch finds {torch.cuda.device_count()} GPUs')
        if not torch._C._dispatch_has_kernel_for_dispatch_key('ops_dcnv3::dcnv3', 'CUDA'):
            raise UserError(f'--device {text}: ops_dcnv3 was built without CUDA kernels')
    return device


def peers_of(args) -> list[str]:
    """The peers asked for, or all that can take part; for networks, None leaves the choice to the variant."""
    if args.command in ('model', 'train'):
        for package in ('timm', 'mmengine'):
            if not find_spec(package):
                raise UserError(f'{args.command} needs {package}, which is not installed')
        import timm

        for peer in args.peers or []:
            if not timm.is_model(TIMM_NAMES.get(peer, peer)):
                raise UserError(f'--peers must be names of timm models, got {peer}')
        return args.peers
    known = dict(op=list(OPERATORS), layer=list(LAYERS), roi=[peer for *_, peer in ROI_POOLS.values()])[args.command]
    known = [name for name in known if name != 'ours']
    for peer in args.peers or []:
        if peer not in known:
            raise UserError(f'--peers must be among {", ".join(known)}, got {peer}')
    if args.sweep:
        return []
    missing = [peer for peer in args.peers or known if peer in ('deform_conv2d', 'roi_align', 'ps_roi_align')]
    if missing and not find_spec('torchvision'):
        if args.peers:
            raise UserError(f'--peers {missing[0]} needs torchvision, which is not installed')
        note(f'{", ".join(missing)} left out: torchvision is not installed')
        known = [peer for peer in known if peer not in missing]
    return args.peers or known


if __name__ == '__main__':
    try:
        main()
    except UserError as error:
        print('error:', ' '.join(str(error).split()), file=sys.stderr)
        sys.exit(2)
