"""Clock, memory and samples: what a benchmark measures, and how."""

import ctypes
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch

from ..errors import UserError

LEAST_SAMPLES = 3
LARGE = 256 * 2**20  # bytes, more than a GPU's L2 cache holds


@dataclass
class Case:
    """What one row of the table is measured from."""

    labels: dict
    makers: Callable[[], dict[str, Callable]]  # builds the inputs; each maker then builds a contender, see `contender`
    ratios: list[tuple[str, str]]  # (a, b): the time of a by the time of b
    work: int  # grows with its time, to estimate what is left
    moved: int = 0  # bytes that the operator has to move
    output_bytes: int = 0


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
            Path('/proc/self/clear_refs').write_text('5')  # resets the high-water mark
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
    """The figures of each contender of a case. They are timed in turn, sample by sample.

    A contender without a kernel or enough memory for the case is left out with a note.

    Raises:
        UserError: `ours` cannot run.
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

    Returns a function that prepares sample i and returns the callable that is timed, and facts to report with the
    figures.
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


def in_faster_layout(figures: dict[str, dict], batch: int) -> dict[str, dict]:
    """From figures named 'network layout' to those of each network in the layout that it is faster in."""
    chosen, layouts = {}, {}
    for name, figure in sorted(figures.items(), key=lambda item: item[1]['median_ms']):
        network, layout = name.split()[0], figure['layout']
        chosen.setdefault(network, dict(figure, ms_per_image=figure['median_ms'] / batch))
        layouts.setdefault(network, {})[layout] = figure['median_ms']
    order = dict.fromkeys(name.split()[0] for name in figures)
    return {network: dict(chosen[network], layouts_ms=layouts[network]) for network in order}


@cache
def note(text: str) -> None:
    """Once each."""
    print(text, file=sys.stderr)
