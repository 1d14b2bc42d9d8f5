"""`python tools/serve.py ...` is `internimage serve ...`."""

import sys

from internimage.__main__ import main

if __name__ == '__main__':
    sys.exit(main('serve'))
