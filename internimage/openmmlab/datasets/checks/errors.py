"""The error of wrong data."""

from ....errors import UserError


class DataError(UserError, ValueError):
    """Data that cannot be used. The message is one line: the file, the annotation, the value and what to do.

    From a worker process of a DataLoader torch raises it with the worker's whole traceback as its message, which ends
    in the line of the original error: that line is kept.
    """

    def __init__(self, message: str):
        super().__init__(' '.join(str(message).rsplit('DataError: ', 1)[-1].split()))
