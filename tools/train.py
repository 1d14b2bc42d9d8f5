"""`python tools/train.py ...` is `internimage train ...`."""

import sys

from internimage.__main__ import main

if __name__ == '__main__':
    sys.exit(main('train'))
