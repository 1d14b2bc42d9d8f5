"""Another name of :mod:`internimage.openmmlab.cli.common`, for scripts written against it."""

from internimage.openmmlab.cli.common import *  # noqa: F403
from internimage.openmmlab.cli.common import load_config  # noqa: F401
