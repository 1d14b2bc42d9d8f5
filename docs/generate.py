"""Writes docs/api.md from the docstrings, and the README's table of versions from tests/versions.json.

    python docs/generate.py

A test fails where either is not up to date.
"""

import importlib
import inspect
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'api.md'
README = ROOT / 'README.md'
MODULES = (
    'ops_dcnv3',
    'internimage',
    'internimage.checkpoint',
    'internimage.analysis',
    'internimage.export',
    'internimage.openmmlab.inference',
    'internimage.openmmlab.predictor',
    'internimage.openmmlab.results',
)


def page() -> str:
    """The text of docs/api.md."""
    parts = ['# API\n\nWritten by `python docs/generate.py` from the docstrings.\n']
    for name in MODULES:
        module = importlib.import_module(name)
        parts.append(f'## {name}\n\n{_text(module)}')
        parts += [_entry(name, public, getattr(module, public)) for public in module.__all__]
    return '\n'.join(parts)


def _entry(module: str, name: str, value) -> str:
    if not callable(value):
        return f'### {module}.{name}\n'
    return f'### {module}.{name}\n\n```python\n{name}{_signature(value)}\n```\n\n{_text(value)}'


def _signature(value) -> str:
    """One argument a line where it does not fit into one line."""
    if isinstance(value, type) and issubclass(value, Exception):
        return ''
    parameters = [_short(parameter) for parameter in inspect.signature(value).parameters.values()]
    line = f'({", ".join(parameters)})'
    return line if len(line) <= 100 else '(\n' + ''.join(f'    {parameter},\n' for parameter in parameters) + ')'


def _short(parameter: inspect.Parameter) -> str:
    """Without the modules of its types."""
    return re.sub(r'\b(?:[a-z_]+\.)+(?=[A-Z])', '', str(parameter))


def _text(value) -> str:
    return f'```text\n{inspect.getdoc(value)}\n```\n' if inspect.getdoc(value) else ''


def readme() -> str:
    """The text of README.md, with the table of versions between its marks."""
    rows = json.loads(ROOT.joinpath('tests', 'versions.json').read_text())
    lines = ['| torch | torchvision | tested by `make matrix` |', '|---|---|---|']
    for row in rows:
        note = f' ({row["note"]})' if row['note'] else ''
        lines.append(f'| {row["torch"]}{note} | {row["torchvision"]} | {", ".join(row["suites"])} |')
    before, rest = README.read_text().split('<!-- versions -->\n')
    after = rest.split('<!-- /versions -->\n')[1]
    return f'{before}<!-- versions -->\n' + '\n'.join(lines) + f'\n<!-- /versions -->\n{after}'


if __name__ == '__main__':
    PAGE.write_text(page())
    README.write_text(readme())
