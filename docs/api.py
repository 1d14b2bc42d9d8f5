"""Writes docs/api.md from the docstrings: `python docs/api.py`. A test fails where the page is not up to date."""

import importlib
import inspect
import re
from pathlib import Path

PAGE = Path(__file__).with_name('api.md')
MODULES = (
    'ops_dcnv3',
    'internimage',
    'internimage.checkpoint',
    'internimage.analysis',
    'internimage.openmmlab.inference',
)


def page() -> str:
    """The text of docs/api.md."""
    parts = ['# API\n\nWritten by `python docs/api.py` from the docstrings.\n']
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
    parameters = [_short(parameter) for parameter in inspect.signature(value).parameters.values()]
    line = f'({", ".join(parameters)})'
    return line if len(line) <= 100 else '(\n' + ''.join(f'    {parameter},\n' for parameter in parameters) + ')'


def _short(parameter: inspect.Parameter) -> str:
    """Without the modules of its types."""
    return re.sub(r'\b(?:[a-z_]+\.)+(?=[A-Z])', '', str(parameter))


def _text(value) -> str:
    return f'```text\n{inspect.getdoc(value)}\n```\n' if inspect.getdoc(value) else ''


if __name__ == '__main__':
    PAGE.write_text(page())
