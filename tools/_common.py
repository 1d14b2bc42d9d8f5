"""Alias of :mod:`internimage.openmmlab.cli.common`, for scripts that use the former name."""

from internimage.openmmlab.cli.common import *  # noqa: F403
from internimage.openmmlab.cli.common import load_config  # noqa: F401
