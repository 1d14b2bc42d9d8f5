"""`python tools/analyze_support.py ...` is `internimage analyze-support ...`."""

import sys

from internimage.__main__ import main

if __name__ == '__main__':
    sys.exit(main('analyze-support'))
