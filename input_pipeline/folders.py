"""What lies in a folder of images: `<split>/<class>/…` to classify, and folders of loose images to verify."""

import collections
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from input_pipeline import DataError

# In any case.
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.pgm', '.ppm', '.gif', '.tif', '.tiff')
_LAYOUT = (
    'It must hold train/<class>/ with the images of each class and other splits beside train likewise, or '
    'nothing but <class>/'
)
# In lower case, what is no class.
_SPLITS = {'train', 'training', 'val', 'valid', 'validation', 'dev', 'eval', 'evaluation', 'test', 'testing'}
_SPLITS |= {'unlabeled', 'unlabelled', 'cls_data', 'ver_data'}


class Item(NamedTuple):
    """An image file."""

    id: str  # path relative to the folder, with '/'
    label: int  # -1 where it lies in no class
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """The images of a folder, sorted by their ids, and the suffixes of other files that lie there.

    The classes are those of train, sorted by name. A split with none of them, of loose images or of people
    that train lacks, has the label -1 throughout.
    """

    folder: Path
    class_names: tuple[str, ...]
    splits: dict[str, tuple[Item, ...]]
    ignored: collections.Counter[str]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with the path, size or modification time of any image."""
        return fingerprint(item for items in self.splits.values() for item in items)


def fingerprint(items: Iterable[Item]) -> str:
    """Returns a hash of all there is to say about these images short of reading them."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr(tuple(item)).encode())
    return digest.hexdigest()


def scan(folder: Path) -> Listing:
    """Lists `folder/<split>/<class>/…` and folders of loose images; splits may also lie in `folder/cls_data`.

    Folders of images alone, none of them named as a split, are the classes of train. Images in subfolders of
    a class belong to it. Hidden files and those without an image's suffix are not images; links are followed.

    Raises:
        DataError: what is there cannot be trained on.
    """
    if not folder.is_dir():
        raise DataError(f'config.dataset.folder: {folder} is no folder.')
    files = list(walk(folder))
    images = [file for file in files if _in_folder(file[0]) and is_image(file[0])]
    only_classes = _are_classes(path for path, *_ in images)
    above = 'train/' if only_classes else ''
    found: dict[str, list[tuple[str | None, str, int, int]]] = {}
    for path, size, mtime_ns in images:
        split, class_name = _place(above + path)
        found.setdefault(split, []).append((class_name, path, size, mtime_ns))
    _check_names(folder, found)
    classes = {split: {image[0] for image in images} for split, images in found.items()}
    others = [path for path, *_ in files if _in_folder(path) and '/.' not in path and not is_image(path)]
    _check_none_is_lost(folder, [above + path for path in others], classes.get('train', set()))
    _check_classes(folder, classes)
    class_names = sorted(classes['train'])
    labels = {name: label for label, name in enumerate(class_names)}
    splits = {
        split: tuple(sorted(Item(path, labels.get(name, -1), *state) for name, path, *state in images))
        for split, images in sorted(found.items())
    }
    taken = {path for path, *_ in images}
    ignored = collections.Counter(Path(path).suffix for path, *_ in files if path not in taken)
    return Listing(folder, tuple(class_names), splits, ignored)


def walk(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, int, int]]:
    """Yields relative path, size and modification time of every file outside of hidden folders.

    Raises:
        DataError: a folder cannot be listed, and there is no `on_error`, which else is told and goes on.
    """

    def below(path: str, relative: str, above: tuple) -> Iterator[tuple[str, int, int]]:
        try:
            entries = os.scandir(path)
        except OSError as error:
            if on_error is None:
                raise
            on_error(error)
            return
        with entries:
            for entry in entries:
                name = relative + entry.name
                try:
                    state = entry.stat()
                except OSError:  # a broken link: reported when it is read
                    yield name, 0, 0
                    continue
                key = state.st_dev, state.st_ino
                if not entry.is_dir():
                    yield name, state.st_size, state.st_mtime_ns
                elif not entry.name.startswith('.') and key not in above:  # else a link back up
                    yield from below(entry.path, f'{name}/', (*above, key))

    state = folder.stat()
    try:
        yield from below(str(folder), '', ((state.st_dev, state.st_ino),))
    except OSError as error:
        raise DataError(f'Cannot list {error.filename}: {error.strerror}.') from error


def is_image(path: str) -> bool:
    """Whether a file is an image to go by its name, and not hidden."""
    return path.lower().endswith(SUFFIXES) and not path.rpartition('/')[2].startswith('.')


def _in_folder(path: str) -> bool:
    return '/' in path.removeprefix('cls_data/')


def _are_classes(paths: Iterable[str]) -> bool:
    """Whether these images lie in folders of classes, not of splits."""
    parts = [path.split('/') for path in paths]
    names = {first for first, *_ in parts}
    return (
        names == {first for first, *rest in parts if len(rest) == 1}
        and not {name.lower() for name in names} & _SPLITS
    )


def _place(path: str) -> tuple[str, str | None]:
    """Returns the split and, where it lies in one, the class of an image."""
    split, *folders, _ = path.removeprefix('cls_data/').split('/')
    return split, folders[0] if folders else None


def _check_names(folder: Path, found: dict[str, list]) -> None:
    """Names end up in files of TFDS: splits as \\w+, classes as lines of UTF-8."""
    for split, images in found.items():
        if not re.fullmatch(r'[A-Za-z]\w*', split, re.ASCII) or split == 'all':
            raise DataError(
                f'{folder / split}: TFDS wants names of splits to be of letters, digits and _, and not all. '
                'Rename that folder.'
            )
        for class_name, path, *_ in images:
            if class_name is not None and class_name.strip().splitlines() != [class_name]:
                raise DataError(
                    f'{folder}: the class {class_name!r} begins or ends with a space, or has a line break. '
                    'Rename that folder.'
                )
            try:
                path.encode()
            except UnicodeEncodeError:
                raise DataError(f'{folder}: the name {path!a} is not UTF-8. Rename that file.') from None


def _check_none_is_lost(folder: Path, others: list[str], train: set[str | None]) -> None:
    """Raises DataError where there is a class folder in train without any image, but with other files."""
    lost: dict[str, set[str]] = {}
    for path in others:
        split, class_name = _place(path)
        if split == 'train' and class_name is not None and class_name not in train:
            lost.setdefault(class_name, set()).add(Path(path).suffix or path.rpartition('/')[2])
    if train - {None} and lost:
        raise DataError(
            f'{folder}: of class {_listed(lost)} there are files, but none is an image to go by its name '
            f'({_listed(set().union(*lost.values()))}; not {", ".join(SUFFIXES)}). Convert them, or move '
            'that folder away.'
        )


def _check_classes(folder: Path, classes: dict[str, set[str | None]]) -> None:
    if not classes:
        raise DataError(f'{folder} holds no images ({", ".join(SUFFIXES)}) in folders. {_LAYOUT}.')
    if 'train' not in classes:
        raise DataError(
            f'{folder} has no images in train, but in {_listed(classes)}. {_LAYOUT}. If these are '
            f'classes, move their folders into {folder / "train"}.'
        )
    train = classes['train']
    if len(train) < 2:
        what = 'no class folders' if None in train else f'only one class, {_listed(train)}'
        raise DataError(f'The training images of {folder} have {what}: a classifier needs two. {_LAYOUT}.')
    for split, names in classes.items():
        if not names & train - {None}:
            continue  # images of other people, to verify
        if None in names:
            raise DataError(
                f'Split {split} of {folder} has images beside its class folders: move them into one, or away.'
            )
        if more := names - train:
            raise DataError(f'Split {split} of {folder} has classes that train lacks: {_listed(more)}.')


def _listed(names) -> str:
    names = sorted(names)
    return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '')
