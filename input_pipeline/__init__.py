"""From datasets on disk to batches on the device."""


class DataError(Exception):
    """Data cannot be used as asked; the message is complete, for the user, and needs no traceback."""
