"""Who may import whom: the operators know torch alone, the network knows torch and timm, OpenMMLab stands on both."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = {'torch', 'timm', 'safetensors', 'numpy', 'ops_dcnv3', 'internimage'}
OPENMMLAB = {'mmengine', 'mmcv', 'mmdet', 'mmseg'}
WITH_OPENMMLAB = OPENMMLAB | {'torchvision', 'cv2', 'pycocotools', 'faster_coco_eval', 'PIL', 'jinja2', 'markupsafe'}
# Optional packages, imported inside the functions that need them.
OPTIONAL = {
    'torchvision',
    'matplotlib',
    'onnx',
    'onnxscript',
    'onnxruntime',
    'openvino',
    'cv2',
    'PIL',
    'supervision',
    'gradio',
}
# Copied beside an exported file, to run it without this project: the only import is the other way round, of its path.
STANDALONE = ROOT / 'internimage' / 'export' / 'run_onnx.py'


def modules(path: Path, everywhere: bool) -> set[str]:
    """Absolute names of the modules that a file imports: at its top level, or everywhere in it."""
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            module = '.'.join([*parents, *([node.module] if node.module else [])])
            names |= {module, *(f'{module}.{alias.name}' for alias in node.names)}
    return names


def top_level(names: set[str]) -> set[str]:
    return {name.split('.')[0] for name in names} - set(sys.stdlib_module_names)


def core_files() -> list[Path]:
    folder = ROOT / 'internimage'
    paths = [path for path in sorted(folder.rglob('*.py')) if folder / 'openmmlab' not in path.parents]
    return [path for path in paths if path != STANDALONE]


def test_operators_import_torch_alone():
    files = sorted((ROOT / 'ops_dcnv3').rglob('*.py'))
    assert files
    for path in files:
        assert top_level(modules(path, everywhere=True)) <= {'torch', 'ops_dcnv3'}, path


@pytest.mark.parametrize('path', core_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_network_knows_nothing_of_openmmlab(path):
    assert top_level(modules(path, everywhere=False)) <= CORE
    assert top_level(modules(path, everywhere=True)) <= CORE | OPTIONAL
    back_edges = [name for name in modules(path, everywhere=True) if name.startswith('internimage.openmmlab')]
    assert not back_edges


def test_openmmlab_stands_on_the_other_two():
    for path in sorted((ROOT / 'internimage' / 'openmmlab').rglob('*.py')):
        assert top_level(modules(path, everywhere=True)) <= CORE | WITH_OPENMMLAB | OPTIONAL, path


def test_the_program_beside_an_exported_file_stands_alone():
    assert top_level(modules(STANDALONE, everywhere=True)) == {'numpy', 'onnxruntime', 'PIL'}


def test_the_official_module_is_another_name_of_ours():
    assert {name.split('.')[0] for name in modules(ROOT / 'DCNv3.py', everywhere=True)} == {'ops_dcnv3'}


def test_internimage_takes_only_public_names_of_the_operators():
    public = {f'ops_dcnv3.{name}' for name in _public_names()}
    for path in (ROOT / 'internimage').rglob('*.py'):
        names = {name for name in modules(path, everywhere=True) if name.startswith('ops_dcnv3.')}
        assert names <= public, path


def _public_names() -> set[str]:
    tree = ast.parse((ROOT / 'ops_dcnv3' / '__init__.py').read_text())
    (names,) = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == '__all__']
    return {element.value for element in names.elts} | {'reference', 'composed'}


@pytest.mark.parametrize('name', ['reference', 'composed'])
def test_the_specification_and_the_composed_operators_import_torch_alone(name):
    allowed = {'torch', 'torch.Tensor', 'torch.nn.functional'}
    assert modules(ROOT / 'ops_dcnv3' / f'{name}.py', everywhere=True) <= allowed


@pytest.mark.parametrize('kind', ['cu', 'h'])
def test_headers_and_kernels_know_no_torch(kind):
    for path in (ROOT / 'ops_dcnv3' / 'csrc').rglob(f'*.{kind}'):
        if path.name.endswith(('_params.h', '_operators.h')) or path.name in ('from_torch.h', 'layout.h'):
            continue  # between torch's tensors and the kernels, for .cpp files alone
        text = path.read_text()
        assert not any(f'#include <{part}' in text for part in ('torch/', 'ATen/', 'c10/')), path


# What each floor's import must not need: these modules are made impossible to import in a process of its own.
FLOORS = {
    'ops_dcnv3': {'timm', 'torchvision', 'safetensors', *OPENMMLAB},
    'internimage': OPENMMLAB | {'cv2'},
    'internimage.checkpoint': OPENMMLAB | {'cv2'},
    'internimage.analysis': OPENMMLAB | {'cv2'},
    'internimage.export': OPENMMLAB | {'cv2', 'onnx', 'onnxscript', 'onnxruntime', 'openvino'},
}


@pytest.mark.parametrize('floor', FLOORS)
def test_a_floor_is_imported_without_the_next(floor):
    code = f"""
import sys
for name in {sorted(FLOORS[floor])}:
    sys.modules[name] = None
import {floor}
assert not [name for name in sys.modules if name.startswith('internimage.openmmlab')]
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
