"""Where images come from: a TFDS dataset, an image folder or scikit-learn's digits, as uint8 arrays."""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from input_pipeline import DataError, cache, decoding, prepare, records
from input_pipeline.progress import track


class Split(NamedTuple):
    """One split, in an order that never changes."""

    images: np.ndarray  # uint8[n, height, width, channels]; a read-only np.memmap if cached on disk
    labels: np.ndarray  # int32[n]; -1 where an image has none
    ids: np.ndarray  # str[n]: the dataset's own where it has any, else '<split>-<index>'


@dataclass(frozen=True)
class Dataset:
    """A dataset, of which the splits asked for are loaded."""

    name: str
    version: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return next(iter(self.splits.values())).images.shape[1:]


def load(
    dataset_config: ConfigDict,
    splits: Sequence[str] = ('train', 'test'),
    *,
    progress: bool | None = None,
    check: Callable[[tuple[int, int, int], int], None] = lambda image_shape, num_classes: None,
) -> Dataset:
    """Loads splits of `config.dataset`; the first time it prepares the dataset and decodes its images.

    Args:
        dataset_config: reads name, data_dir, manual_dir, cache_dir, folder, bad_images and image_size.
        splits: which ones; names as the dataset has them.
        progress: show a progress bar (True) or one plain line (False) on stderr while something takes long;
            None: a bar if stderr is a terminal.
        check: called once with the shape of an image and the number of classes, before anything is
            decoded; raises where they do not suit.

    Raises:
        DataError: on anything that is not there, not readable or not writable.
    """
    progress = sys.stderr.isatty() if progress is None else progress
    on_disk = dataset_config.folder or dataset_config.name != 'digits'
    load_source = _tfds if on_disk else _digits
    return load_source(dataset_config, splits, progress, check)


def _digits(dataset_config: ConfigDict, splits: Sequence[str], progress: bool, check: Callable) -> Dataset:
    """The 1,797 handwritten digits of scikit-learn, 8x8 grey; a fixed fifth of each class is `test`."""
    records.check_splits('digits', splits, ('train', 'test'))
    if dataset_config.image_size not in (0, 8):
        raise DataError('config.dataset.image_size: the digits have 8 x 8 pixels, and are not resized.')
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    check((8, 8, 1), len(digits.target_names))
    images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    loaded = {}
    for split, rows in (('train', np.sort(train)), ('test', np.sort(test))):
        ids = np.array([f'{split}-{index}' for index in range(len(rows))])
        loaded[split] = Split(images[rows], labels[rows], ids)
    names = tuple(str(name) for name in digits.target_names)
    return Dataset('digits', '1.0.0', names, {split: loaded[split] for split in splits})


def _tfds(dataset_config: ConfigDict, splits: Sequence[str], progress: bool, check: Callable) -> Dataset:
    prepared = prepare.find_or_prepare(dataset_config, splits, progress)
    name = prepared.name  # without any :version
    image_size = dataset_config.image_size
    # The folder is part of the key, so that two copies of a dataset do not replace each other's cache.
    location = hashlib.sha256(str(prepared.folder.resolve()).encode()).hexdigest()[:8]
    size = f'-{image_size}px' if image_size else ''
    folder = _cache_dir(dataset_config.cache_dir) / name / f'{prepared.version}-{location}{size}'
    loaded, class_names = {}, ()
    for split in splits:
        entries = cache.read(folder, split, prepared.fingerprint)
        if entries is None:
            source = records.Records(prepared, split, image_size)
            if not loaded:
                check(source.shape, len(source.class_names))
            _fill_cache(folder, source, prepared, progress)
            entries = cache.read(folder, split, prepared.fingerprint)
            if entries is None:
                raise DataError(f'What was just written to {folder} reads back damaged: check that disk.')
        elif not loaded:
            check(entries['images'].shape[1:], len(entries['class_names']))
        class_names = tuple(str(name) for name in entries['class_names'])
        loaded[split] = Split(entries['images'], entries['labels'], entries['ids'])
    return Dataset(name, prepared.version, class_names, loaded)


def _cache_dir(cache_dir: str) -> Path:
    if cache_dir:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'jax-classifiers'


def _fill_cache(folder: Path, source: records.Records, prepared: records.Prepared, progress: bool) -> None:
    """Decodes a split into the cache, in several processes where that is faster."""
    split = source.split
    shape = (len(source), *source.shape)
    title = f'Decoding {split} of {prepared.name}, {len(source):,} images (only this once)'

    def fill(processes: int) -> None:
        chunks = track(
            source.decoded(processes), len(source), title, progress, size=lambda chunk: len(chunk[0])
        )
        cache.write(folder, split, prepared.fingerprint, shape, chunks, source.class_names)

    try:
        fill(decoding.process_count(len(source)))
    except BrokenProcessPool:  # workers cannot start in a script without a main guard, or were killed
        fill(1)
