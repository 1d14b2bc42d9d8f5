"""The error that a command shows as one line."""


class UserError(Exception):
    """An error in what the user gave. The message is one line: the rule, the value received, what to do.

    Commands print it as `error: ...` and end with exit status 2; every other exception is a fault of the program and
    keeps its traceback.
    """
