"""`python tools/convert_checkpoint.py ...` is `internimage convert ...`."""

import sys

from internimage.__main__ import main

if __name__ == '__main__':
    sys.exit(main('convert'))
