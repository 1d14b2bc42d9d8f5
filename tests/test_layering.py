"""Who may import whom: operators know torch alone, `internimage` their public names, nobody the tools."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STACK = {'torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'numpy', 'cv2', 'pycocotools'}
STACK |= {'safetensors', 'faster_coco_eval', 'PIL', 'matplotlib'}
ALLOWED = {
    'ops_dcnv3': {'torch', 'ops_dcnv3'},
    'internimage': STACK | {'ops_dcnv3', 'internimage'},
    'tools': STACK | {'ops_dcnv3', 'internimage', 'matplotlib', '_common'},
}


def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            names.add('.'.join([*parents, *([node.module] if node.module else [])]))
    return names


@pytest.mark.parametrize('folder', ALLOWED)
def test_no_back_edge(folder):
    files = sorted((ROOT / folder).rglob('*.py'))
    assert files
    for path in files:
        top_level = {name.split('.')[0] for name in imported(path)} - set(sys.stdlib_module_names)
        assert top_level <= ALLOWED[folder], path


def test_the_official_module_is_another_name_of_ours():
    assert imported(ROOT / 'DCNv3.py') == {'ops_dcnv3.functions'}


def test_internimage_takes_only_public_names_of_the_operators():
    for path in (ROOT / 'internimage').rglob('*.py'):
        assert not [name for name in imported(path) if name.startswith('ops_dcnv3.')], path


def test_the_specification_stands_alone():
    assert imported(ROOT / 'ops_dcnv3' / 'reference.py') == {'torch'}


@pytest.mark.parametrize('kind', ['cu', 'h'])
def test_headers_and_kernels_know_no_torch(kind):
    for path in (ROOT / 'ops_dcnv3' / 'csrc').rglob(f'*.{kind}'):
        if path.name.endswith('_params.h') or path.name == 'from_torch.h':
            continue  # they join torch's tensors to what the kernels take, for .cpp files alone
        text = path.read_text()
        assert not any(f'#include <{part}' in text for part in ('torch/', 'ATen/', 'c10/')), path
