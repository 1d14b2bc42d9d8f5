"""What OpenMMLab does not document and this project depends on."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_onedl_message() -> Iterator[None]:
    """Importing mmdet and mmseg in here does not print, four times, that the package onedl could not be imported.

    The maintained forks have data sets for that package, which this project does not use. They log the message at level
    DEBUG without a logger, and mmengine prints every message that has no logger.
    """
    import mmengine.logging

    print_log = mmengine.logging.print_log

    def without(msg, logger=None, *args, **kwargs):
        if logger is not None or not str(msg).startswith('Could not import OneDL'):
            print_log(msg, logger, *args, **kwargs)

    mmengine.logging.print_log = without
    try:
        yield
    finally:
        mmengine.logging.print_log = print_log
