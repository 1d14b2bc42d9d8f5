"""Writing a traced network to a file, and running that file with the program that such files are for."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

from .nms import onnx_nms
from .tracing import compose

OPSET = 20
FORMATS = {'onnx': '.onnx', 'pt2': '.pt2', 'openvino': '.xml'}

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def write_onnx(program: ExportedProgram, names: list[str], path: Path) -> None:
    """Standard operators alone. Weights of more than 2 GB go to a second file, `<name>.data`."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        onnx_program = torch.onnx.export(
            compose(program),
            dynamo=True,
            verbose=False,
            input_names=['image'],
            output_names=names,
            opset_version=OPSET,
            custom_translation_table={torch.ops.internimage.nms.default: onnx_nms},
        )
    foreign = {node.domain for node in onnx_program.model.graph} - {'', 'ai.onnx'}
    if foreign:
        raise RuntimeError(f'operators outside of the ONNX standard, of {", ".join(sorted(foreign))}')
    onnx_program.save(str(path))


def write_pt2(program: ExportedProgram, names: list[str], path: Path) -> None:
    program.example_inputs = None  # as large as the images
    torch.export.save(program, path)


def write_openvino(program: ExportedProgram, names: list[str], path: Path) -> None:
    """By way of ONNX, in float32; the weights are in `<name>.bin`."""
    import openvino

    onnx_file = path.with_suffix('.onnx')
    write_onnx(program, names, onnx_file)
    openvino.save_model(openvino.convert_model(onnx_file), path, compress_to_fp16=False)
    for file in path.parent.glob(f'{onnx_file.name}*'):
        file.unlink()


def run_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]
    return lambda image: dict(zip(names, session.run(None, {'image': image}), strict=True))


def run_pt2(path: Path) -> Run:
    network = torch.export.load(path).module()

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {name: value.numpy() for name, value in network(torch.from_numpy(image)).items()}

    return run


def run_openvino(path: Path) -> Run:
    import openvino

    network = openvino.Core().compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    return lambda image: {output.any_name: value for output, value in network(image).items()}


WRITE = {'onnx': write_onnx, 'pt2': write_pt2, 'openvino': write_openvino}
RUN = {'onnx': run_onnx, 'pt2': run_pt2, 'openvino': run_openvino}
