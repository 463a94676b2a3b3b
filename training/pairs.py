"""Files of image pairs: the same person or not, as face verification asks."""

import csv
import functools
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from input_pipeline import DataError
from input_pipeline.files import fit_image
from input_pipeline.progress import track
from input_pipeline.sources import Split


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
        rows = _csv_rows(path, text)
        _, header = next(rows, (1, []))
        if header[2:3] in (['0'], ['1']) or Path(''.join(header[:1])).suffix:
            raise DataError(f'{path}, line 1: a .csv file begins with a header, such as image1,image2,label')
    else:
        lines = text.splitlines()
        separator = '\t' if '\t' in next(filter(str.strip, lines), '') else None
        rows = ((number, line.split(separator)) for number, line in enumerate(lines, start=1))
    for number, row in rows:
        if any(columns := [column.strip() for column in row]):
            yield number, columns


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    reader, line = csv.reader(io.StringIO(text), strict=True), 1
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f'{path}, line {line}: {error}; is a quotation mark not closed?') from error


class PairedImages(NamedTuple):
    """Pairs and the images they name."""

    split: Split
    used: np.ndarray  # int[k], which images of the split the pairs name, each once
    rows: np.ndarray  # int[pairs, 2] into `used`
    labels: np.ndarray | None  # as in Pairs
    folds: np.ndarray | None

    def images(self, chosen: np.ndarray) -> np.ndarray:
        """Returns both images of the pairs `chosen` int[n]: uint8[n, 2, height, width, channels]."""
        rows = self.used[self.rows[chosen]]
        images = self.split.images[rows.ravel()]
        return images.reshape(*rows.shape, *images.shape[1:])

    @property
    def checksum(self) -> str:
        """Of the images' ids, labels and folds."""
        parts = self.split.ids[self.used[self.rows]], self.labels, self.folds
        return hashlib.sha256(repr([np.asarray(part).tolist() for part in parts]).encode()).hexdigest()


def find_file(name: str, folder: str, key: str) -> Path:
    """Returns the path of a pairs file, which may be relative to the folder of images ('': none).

    Raises:
      DataError: naming `key`, which the name was given for, and where the file was looked for.
    """
    path = Path(name).expanduser()
    places = [path, Path(folder).expanduser() / path] if folder else [path]
    for place in places:
        if place.exists():
            return place
    looked = ' or '.join(dict.fromkeys(str(place.absolute()) for place in places))
    raise DataError(f'{key}={name}: there is no {looked}. Say where the pairs file is with --{key}=FILE.')


def read_labelled(config: ConfigDict) -> Pairs:
    """Returns the pairs of `config.verification`. Raises DataError unless they have labels of both kinds."""
    key = 'config.verification.pairs'
    found = read(find_file(config.verification.pairs, config.dataset.folder, key))
    if found.labels is None:
        raise DataError(
            f'{key}={found.path}: these pairs have no labels 0 or 1 to compare with; '
            'evaluate.py --pairs=… --scores=… writes their similarities.'
        )
    check_labels(found)
    return found


def check_labels(pairs: Pairs) -> None:
    """Raises DataError unless there are genuine pairs and impostors, also outside of each fold."""
    parts = [('', pairs.labels, 'a ROC curve')]
    for fold in [] if pairs.folds is None else np.unique(pairs.folds):
        others = pairs.labels[pairs.folds != fold]
        parts.append((f' outside of fold {fold}', others, 'the threshold of a fold'))
    for where, part, what in parts:
        genuine = np.count_nonzero(part)
        if genuine in (0, len(part)):
            raise DataError(
                f'{pairs.path}: of {len(part):,} pairs{where} {genuine:,} are genuine (1) and '
                f'{len(part) - genuine:,} impostors (0): {what} needs both.'
            )


def find_images(pairs: Pairs, split: Split, name: str, image_shape: tuple[int, int, int]) -> PairedImages:
    """Returns the pairs with the images of the split called `name`.

    Raises:
      DataError: its images are not of `image_shape`, or a pair names an image that is not there.
    """
    if split.images.shape[1:] != image_shape:
        theirs, ours = (' x '.join(map(str, shape)) for shape in (split.images.shape[1:], image_shape))
        raise DataError(
            f'the images of {name} have {theirs} pixels, those to train on {ours}: make them alike, or let '
            '--config.dataset.image_size do so.'
        )
    return pair_images(pairs, split, name)


def read_images(pairs: Pairs, folder: Path, image_shape: tuple[int, int, int]) -> PairedImages:
    """Returns the pairs with images that lie in `folder`, of any size, made like those of a prepared folder.

    Raises:
      DataError: an image is not there (with its line in the pairs file) or unreadable, or those of the model
        are not square.
    """
    height, width, _ = image_shape
    if height != width:
        raise DataError(
            f'--folder={folder}: this model takes images of {width} x {height} pixels, and photographs are '
            'made square ones only. Compare images of a --split.'
        )
    folder_name = folder.resolve().name

    @functools.cache
    def inside(name):
        return name if (folder / name).is_file() else _inside(name, folder_name)

    names = {inside(name) for both in pairs.names for name in both}
    names = sorted(name for name in names if (folder / name).is_file())
    split = Split(np.empty((len(names), *image_shape), np.uint8), np.full(len(names), -1), np.array(names))
    paired = pair_images(pairs, split, folder_name, inside)  # before reading: is every image there?
    for image, name in zip(
        split.images,
        track(names, len(names), f'Reading {folder}', size=lambda _: 1),
        strict=True,
    ):
        image[:] = fit_image(folder / name, image_shape)
    return paired


def pair_images(
    pairs: Pairs, split: Split, folder: str, inside: Callable[[str], str] | None = None
) -> PairedImages:
    """Finds the images that the pairs name.

    Names and ids are compared as they are inside of the `folder` (such as ver_data): without its name, which
    they may begin with, or as `inside` gives them.

    Raises:
      DataError: naming the first line whose image is not there.
    """
    inside = inside or functools.partial(_inside, folder=folder)
    positions = {inside(str(name)): position for position, name in enumerate(split.ids)}
    rows = np.array([[positions.get(inside(name), -1) for name in both] for both in pairs.names])
    if (rows < 0).any():
        pair, side = np.argwhere(rows < 0)[0]
        missing = len(set(np.array(pairs.names)[rows < 0]))
        raise DataError(
            f'{pairs.path}, line {pairs.lines[pair]}: there is no image {pairs.names[pair][side]!r} in '
            f'{folder} ({missing:,} of the images named are missing)'
        )
    used, rows = np.unique(rows, return_inverse=True)
    return PairedImages(split, used, rows.reshape(-1, 2), pairs.labels, pairs.folds)


def _inside(name: str, folder: str) -> str:
    """Returns the name of an image without that of the folder, which it may begin with."""
    return name.removeprefix('./').removeprefix('cls_data/').removeprefix(f'{folder}/')
