"""Alias of :mod:`internimage.openmmlab.inference`, for code that uses the former name."""

import importlib
import sys

sys.modules[__name__] = importlib.import_module('internimage.openmmlab.inference')
