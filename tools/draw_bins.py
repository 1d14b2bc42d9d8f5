"""`python tools/draw_bins.py ...` is `internimage draw-bins ...`."""

import sys

from internimage.__main__ import main

if __name__ == '__main__':
    sys.exit(main('draw-bins'))
