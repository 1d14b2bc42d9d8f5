"""`python tools/benchmark.py ...` is `internimage benchmark ...`."""

import sys

from internimage.__main__ import main

if __name__ == '__main__':
    sys.exit(main('benchmark'))
