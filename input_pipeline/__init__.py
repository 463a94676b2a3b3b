"""From datasets on disk to batches on the device."""

# The way out where a file of a dataset is damaged.
REPAIR = 'Remove that folder, so that the dataset is prepared anew, or copy it again from where it came from.'


class DataError(Exception):
    """Data cannot be used as asked; the message is complete, for the user, and needs no traceback."""
