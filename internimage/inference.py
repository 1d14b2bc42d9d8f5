"""Another name of :mod:`internimage.openmmlab.inference`, for code written before the network stood on its own."""

import importlib
import sys

sys.modules[__name__] = importlib.import_module('internimage.openmmlab.inference')
