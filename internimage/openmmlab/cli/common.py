"""What the commands share: reading a config, checking all inputs before anything is written, errors as one line."""

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import RUNNERS, DefaultScope
from mmengine.runner import Runner
from torch import nn

from ...errors import UserError
from ..checkpoint import build_on_meta
from ..configuration import dicts, load_config, type_name  # noqa: F401  (for the commands)
from ..datasets import checks
from ..engine import check_loader


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """`main` with errors of the user's input as one line `error: ...` on stderr and exit code 2."""

    @functools.wraps(main)
    def command() -> None:
        try:
            main()
        except UserError as error:
            print('error:', ' '.join(str(error).split()), file=sys.stderr)
            sys.exit(2)

    return command


@contextmanager
def blame(where: str) -> Iterator[None]:
    """Turns what constructors raise for a wrong or misspelt option into a UserError that starts with `where`."""
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        if not str(error):
            raise
        raise UserError(f'{where}: {error.args[0] if isinstance(error, KeyError) else error}') from error


def build_model(cfg: Config) -> nn.Module:
    """The config's model on the meta device, without memory for weights.

    Raises:
        UserError: a wrong option, or a checkpoint of an `init_cfg` that does not exist.
    """
    for node in dicts(cfg.model):
        file = node.get('checkpoint') if type_name(node) in ('Pretrained', 'PretrainedInit') else None
        if file and '://' not in file and not Path(file).expanduser().exists():
            raise UserError(f'config {cfg.filename}: checkpoint {file} of init_cfg does not exist')
    if 'data_preprocessor' in cfg:  # as mmengine's Runner does
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with scope(cfg), blame(f'config {cfg.filename}: model'):
        return build_on_meta(cfg.model)


def check_data(cfg: Config, *splits: str, mode: str = 'sample') -> None:
    """`internimage.openmmlab.datasets.checks.check_data`, with its notes on stdout."""
    for note in checks.check_data(cfg, *splits, mode=mode):
        print('note:', note)


def build_runner(cfg: Config) -> Runner:
    """mmengine's Runner. Outside distributed training synchronised batch norm becomes plain batch norm."""
    for split in ('train', 'val', 'test'):
        with blame(f'config {cfg.filename}: {split}_dataloader'):
            check_loader(cfg.get(f'{split}_dataloader') or {})
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if not runner.distributed and isinstance(runner.model, nn.Module):
        runner.model = revert_sync_batchnorm(runner.model)
    return runner


def check_writable(folder, what: str) -> None:
    """Checks that files can be written to the folder, which need not exist. Nothing is left behind.

    Raises:
        UserError: they cannot; the message names `what`, the option.
    """
    existing = Path(folder)
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f'{what} {folder} cannot be written: {existing}: {error.strerror}') from error


def scope(cfg: Config):
    """In which registries (mmdet's, mmseg's) the types of the config are looked up first."""
    return DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine'))


def add_check_data(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--check-data`."""
    parser.add_argument(
        '--check-data',
        choices=checks.MODES,
        default='sample',
        help='data that are checked before the run: annotation files and a sample of the images and label maps, all of '
        'them, or none',
    )
