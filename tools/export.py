"""`python tools/export.py ...` is `internimage export ...`."""

import sys

from internimage.__main__ import main

if __name__ == '__main__':
    sys.exit(main('export'))
