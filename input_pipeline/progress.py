"""What a person sees while data are downloaded or decoded."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Item = TypeVar('Item')


def track(items: Iterable[Item], total: int, title: str, size: Callable[[Item], int] = len) -> Iterator[Item]:
    """Passes items on, with a bar on stderr that advances by `size(item)` up to `total`.

    Where stderr is no terminal, only the title is printed.
    """
    if not sys.stderr.isatty():
        print(title, file=sys.stderr, flush=True)
        yield from items
        return
    text = TextColumn('{task.description}', markup=False)  # of paths, whose brackets are no markup
    columns = text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        for item in items:
            yield item
            bar.advance(task, size(item))
