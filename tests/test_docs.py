"""The generated parts of the documentation are up to date."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location('generate', ROOT / 'docs' / 'generate.py')
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


def test_the_api_page_is_that_of_the_docstrings():
    assert generate.PAGE.read_text() == generate.page(), 'run python docs/generate.py'


def test_the_table_of_versions_is_that_of_the_matrix():
    assert generate.README.read_text() == generate.readme(), 'run python docs/generate.py'
    (pin,) = [line for line in (ROOT / 'requirements.txt').read_text().splitlines() if line.startswith('torch==')]
    rows = generate.json.loads((ROOT / 'tests' / 'versions.json').read_text())
    assert pin.removeprefix('torch==') in [row['torch'] for row in rows if row['suites'] == ['tests']]
