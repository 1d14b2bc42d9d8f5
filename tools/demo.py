"""`python tools/demo.py ...` is `internimage demo ...`."""

import sys

from internimage.__main__ import main

if __name__ == '__main__':
    sys.exit(main('demo'))
