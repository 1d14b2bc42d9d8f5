"""`python tools/test.py ...` is `internimage test ...`."""

import sys

from internimage.__main__ import main

if __name__ == '__main__':
    sys.exit(main('test'))
