"""hypothesis, where it is installed. As these tests need no more than torch and pytest, those that draw from it skip
without it; `fuzz.py` makes random calls all the same."""

from unittest.mock import MagicMock

import pytest

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ImportError:
    st = MagicMock()

    def settings(**options):
        return lambda test: test

    def given(*strategies, **named):
        return lambda test: pytest.mark.skip(reason='needs hypothesis: pip install hypothesis')(lambda: None)


__all__ = ['given', 'settings', 'st']
