"""`python tools/analyze.py ...` is `internimage analyze ...`."""

import sys

from internimage.__main__ import main

if __name__ == '__main__':
    sys.exit(main('analyze'))
