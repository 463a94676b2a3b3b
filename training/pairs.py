"""Files of image pairs: the same person or not, as face verification asks."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline import DataError


class Pairs(NamedTuple):
    """What a pairs file says, in its order."""

    path: Path
    lines: list[int]  # of the file, from 1
    names: list[tuple[str, str]]
    labels: np.ndarray | None  # bool[pairs], true where both are of the same person
    folds: np.ndarray | None  # str[pairs], the part of a cross-validation (LFW has ten) that a pair is in


def read(path: Path) -> Pairs:
    """Reads lines `image image [0 or 1 [fold]]`, or a .csv file of these columns below a header line.

    Columns of other files are separated by tabs where the first line has one (so that names may have spaces),
    else by spaces.

    Raises:
      DataError: naming the line, where the file is not there, not text, empty, or malformed.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'the pairs file {path} cannot be read: {error}') from error
    lines, rows = [], []
    for line, row in _rows(path, text):
        width = len(rows[0]) if rows else len(row)
        if not 2 <= len(row) <= 4 or len(row) != width or not all(row[:2]):
            expected = 'image image [0 or 1 [fold]]' if len(row) == width else f'{width} columns, as above'
            raise DataError(f'{path}, line {line}: expected {expected}; found {" ".join(row)!r}')
        if width > 2 and row[2] not in ('0', '1'):
            raise DataError(f'{path}, line {line}: the label must be 0 or 1; found {row[2]!r}')
        lines.append(line)
        rows.append(row)
    if not rows:
        raise DataError(f'the pairs file {path} holds no pairs: expected lines `image image [0 or 1]`')
    columns = list(zip(*rows, strict=True))
    return Pairs(
        path,
        lines,
        list(zip(columns[0], columns[1], strict=True)),
        np.array(columns[2]) == '1' if len(columns) > 2 else None,
        np.array(columns[3]) if len(columns) > 3 else None,
    )


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the columns of each line that is not blank."""
    if path.suffix.lower() == '.csv':
        reader = csv.reader(io.StringIO(text))
        header = next(reader, [])
        if header[2:3] in (['0'], ['1']) or Path(''.join(header[:1])).suffix:
            raise DataError(f'{path}, line 1: a .csv file begins with a header, such as image1,image2,label')
        rows = ((reader.line_num, row) for row in reader)
    else:
        separator = '\t' if '\t' in text.partition('\n')[0] else None
        rows = ((number, line.split(separator)) for number, line in enumerate(text.splitlines(), start=1))
    for number, row in rows:
        if any(columns := [column.strip() for column in row]):
            yield number, columns


def locate(pairs: Pairs, ids: np.ndarray, split: str) -> np.ndarray:
    """Returns which images the pairs name, as int[pairs, 2] into `ids` str[n].

    A name is an id, with or without the folder `split` (such as ver_data) that it begins with.

    Raises:
      DataError: naming the first line whose image is not there.
    """
    positions = {str(name): position for position, name in enumerate(ids)}

    def find(name: str) -> int:
        return positions.get(name, positions.get(f'{split}/{name}', -1))

    rows = np.array([[find(name) for name in both] for both in pairs.names])
    if (rows < 0).any():
        pair, side = np.argwhere(rows < 0)[0]
        missing = len(set(np.array(pairs.names)[rows < 0]))
        raise DataError(
            f'{pairs.path}, line {pairs.lines[pair]}: there is no image {pairs.names[pair][side]!r} among '
            f'the {len(ids):,} of {split} ({missing:,} of the images named are missing)'
        )
    return rows
