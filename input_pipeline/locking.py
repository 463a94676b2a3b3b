"""Keeps processes out of each other's way."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Lets one process at a time in; the system lets go of the lock of a process that dies.

    Where another one is in, `busy` is called: it raises, or returns to wait. On a file system without locks
    all are let in.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return

    with path.open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
