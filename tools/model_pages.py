"""`python tools/model_pages.py ...` is `internimage model-pages ...`."""

import sys

from internimage.__main__ import main

if __name__ == '__main__':
    sys.exit(main('model-pages'))
