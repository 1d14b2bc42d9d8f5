class DataError(ValueError):
    """Data that cannot be put right without a guess. The message is one line: file, annotation, value, what to do."""
