"""Networks as files for other programs: ONNX (standard operators alone), torch.export, OpenVINO.

    from internimage.export import Backbone, export
    export(Backbone(build_variant('t').eval()), 'backbone.onnx')

Whole detectors and segmentors: `internimage.openmmlab.export`, and the command `internimage export`. A file has any
batch, height and width, is compared with the network at another size than it was traced at, and exists under its name
only if both agree.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .comparing import Agreement
from .formats import FORMATS, RUN, WRITE
from .network import Backbone, Exportable, example_image
from .tracing import LEAST_SIDE, compose, trace

__all__ = [
    'FORMATS',
    'LEAST_SIDE',
    'RUNNER',
    'Backbone',
    'ExportError',
    'Exportable',
    'Exported',
    'compose',
    'example_image',
    'export',
    'other_size',
    'trace',
]


SMALLEST = 32  # pixels of a side: the stride of the last stage
RUNNER = Path(__file__).with_name('run_onnx.py')  # a program of its own: it imports nothing of this package


class ExportError(UserError):
    """The network cannot be exported, or the exported one differs. One line; no file was written."""


@dataclass
class Exported:
    """files: what was written; agreement: with the network; seconds: of the network and of the file for `size`."""

    files: list[Path]
    agreement: Agreement
    size: tuple[int, int, int]
    eager_seconds: float
    seconds: float

    @property
    def megabytes(self) -> float:
        return sum(file.stat().st_size for file in self.files) / 1e6


def export(
    network: Exportable,
    path,
    format: str = 'onnx',
    size: tuple[int, int] = (256, 320),
    image: np.ndarray | None = None,
    progress: Callable[[str], None] | None = None,
) -> Exported:
    """Writes `network`, in evaluation mode on the CPU, to `path`, and compares the file with it.

    Args:
        format: 'onnx' (`.onnx`), 'pt2' (`.pt2`; needs `ops_dcnv3` where it is loaded) or 'openvino' (`.xml`, `.bin`).
        size: height and width that the network is traced and timed at. It is compared on two images of three quarters
            of that.
        image: (N, 3, H, W) float32, normalised: what both are compared on in place of noise.
        progress: is called with what is done next.

    Raises:
        ExportError: a suffix or size that does not fit; the network has what cannot be exported; a package is missing;
            the file does not give what the network gives.
    """
    progress = progress or (lambda text: None)
    path = Path(path)
    if format not in FORMATS:
        raise ExportError(f'format must be one of {", ".join(FORMATS)}, got {format!r}')
    if path.suffix != FORMATS[format]:
        raise ExportError(f'a file of format {format} must end in {FORMATS[format]}, got {path}')
    least = LEAST_SIDE if format == 'pt2' else SMALLEST
    if min(size) < least:
        raise ExportError(f'height and width must be at least {least} pixels, got {size[0]} and {size[1]}')
    image = example_image(other_size(size), batch=2, seed=1) if image is None else image
    traced_at = torch.zeros(3, 3, *(max(side, LEAST_SIDE) for side in size))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix='.part-') as folder:
        part = Path(folder, path.name)
        try:
            progress('tracing')
            with network.traceable():
                program = trace(network, traced_at)
            progress('writing')
            WRITE[format](program, network.names, part)
            progress('comparing with the network')
            run = RUN[format](part)
        except ImportError as error:
            raise ExportError(f'{error}: pip install "internimage[export]"') from error
        except Exception as error:
            message = str(error).strip().split('\n')[0]
            raise ExportError(f'not written as {format}: {type(error).__name__}: {message}') from error
        agreement = network.compare(network.reference(torch.from_numpy(image)), run(image))
        if agreement.faults:
            raise ExportError(f'not written, as the {format} file differs: ' + '; '.join(agreement.faults))
        once = example_image(size, batch=1)
        eager_seconds = _seconds(lambda: network.reference(torch.from_numpy(once)))
        seconds = _seconds(lambda: run(once))
        files = []
        for file in sorted(Path(folder).iterdir()):
            os.replace(file, path.parent / file.name)
            files.append(path.parent / file.name)
    return Exported(files, agreement, (1, *size), eager_seconds, seconds)


def other_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that a network traced at `size` is compared at."""
    return tuple(max(3 * side // 4, min(side, LEAST_SIDE)) for side in size)


def _seconds(call, times: int = 3) -> float:
    """The fastest of a few calls, after one to warm up."""
    call()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)
