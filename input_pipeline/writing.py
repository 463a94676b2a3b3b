"""Files that are there whole or not at all."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yields a file to write, which takes the place of `path` at the end; after an error none does.

    Its name ends in `.tmp`, and is another one each time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.{uuid.uuid4().hex}.tmp')
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # moved into place, or never made
            temporary.unlink()
