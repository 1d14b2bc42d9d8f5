"""The error of this package, and how text out of a file is printed."""

from ..errors import UserError

LONGEST = 2000


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be used. The message is one line that names the file and says why."""

    def __init__(self, message: str):
        if len(message) > LONGEST:  # a long path or name: what is wrong is said at the end
            message = f'{message[: LONGEST // 4]} ... {message[-LONGEST // 2 :]}'
        super().__init__(printable(message, LONGEST))


def printable(text, longest: int = 120) -> str:
    """`text` as one line of at most `longest` characters, `?` for those that are not seen or that steer a terminal."""
    text = ''.join(c if c.isprintable() else ' ' if c.isspace() else '?' for c in str(text)[: 2 * longest])
    return text if len(text) <= longest else text[: longest - 3] + '...'


def listed(names, most: int = 3) -> str:
    """The first of some names that a file contains."""
    names = list(names)
    return ', '.join(map(printable, names[:most])) + (', ...' if len(names) > most else '')
