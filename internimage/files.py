"""Files that are there in full or not at all."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path) -> Iterator[Path]:
    """A path beside `path` to write to. At the end of the block that file takes the name `path`; after an exception it
    is removed, and a file that was there before is as it was. Folders that are missing are made.

    Processes and threads that write the same `path` at the same time do not disturb each other: the last one stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.part-{os.getpid()}-{threading.get_ident()}-{path.name}')
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
