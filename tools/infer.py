"""`python tools/infer.py ...` is `internimage infer ...`."""

import sys

from internimage.__main__ import main

if __name__ == '__main__':
    sys.exit(main('infer'))
