"""Where images come from: a TFDS dataset, an image folder or scikit-learn's digits, as uint8 arrays."""

import hashlib
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from input_pipeline import DataError, cache, cifar, decoding, prepare, records
from input_pipeline.encoded import EncodedImages
from input_pipeline.progress import track

RESIDENT_SHARE = 0.4  # of the free memory of the devices


class Split(NamedTuple):
    """One split, in an order that never changes."""

    # uint8[n, height, width, channels]; a read-only np.memmap if cached on disk, EncodedImages if not decoded
    images: np.ndarray | EncodedImages
    labels: np.ndarray  # int32[n]; -1 where an image has none
    ids: np.ndarray  # str[n]: the dataset's own where it has any, else '<split>-<index>'

    def checksum(self) -> int:
        """Returns a CRC-32 of labels and ids in their order."""
        return zlib.crc32('\n'.join(self.ids).encode(), zlib.crc32(self.labels.tobytes()))


@dataclass(frozen=True)
class Dataset:
    """A dataset, of which the splits asked for are loaded.

    `loader` is resident (its images are decoded) or streaming (they are not), `reason` why.
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # height, width, channels
    splits: Mapping[str, Split] = field(default_factory=dict)
    loader: str = 'resident'
    reason: str = ''
    constants: tuple[Sequence[float], Sequence[float]] | None = None  # mean and std, where they are known
    train_checksum: int | None = None  # of the split that a run trains on, with what it holds out
    other_splits: tuple[str, ...] = ()  # there are, but not loaded

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def description(self) -> dict:
        """Returns what its models need to know of it, for JSON and `Dataset.described`."""
        return {
            'name': self.name,
            'version': self.version,
            'class_names': list(self.class_names),
            'image_shape': list(self.image_shape),
            'constants': np.asarray(self.constants).tolist(),
            'train_checksum': self.train_checksum,
        }

    @classmethod
    def described(cls, description: Mapping) -> 'Dataset':
        """Returns a dataset without splits."""
        shapes = {name: tuple(description[name]) for name in ('class_names', 'image_shape')}
        return cls(**{**description, **shapes})


def known_beforehand(dataset_config: ConfigDict) -> Dataset | None:
    """Returns shape and number of classes of what may still have to be downloaded, where that is known."""
    if dataset_config.folder:
        return None
    name, side = dataset_config.name, dataset_config.image_size or cifar.SIDE
    count = cifar.CLASSES.get(name.partition(':')[0])
    return count and Dataset(name, '', tuple(map(str, range(count))), (side, side, 3))


def load(
    dataset_config: ConfigDict,
    splits: Sequence[str] = ('train', 'test'),
    *,
    memory: float | None = None,
    check: Callable[[Dataset], None] = lambda described: None,
) -> Dataset:
    """Loads splits of `config.dataset`; the first time it prepares the dataset and decodes its images.

    Args:
        dataset_config: reads name, data_dir, manual_dir, cache_dir, folder, bad_images, image_size and, given
            `memory`, loader.
        splits: which ones; names as the dataset has them.
        memory: free bytes on all devices, by which `choose_loader` decides whether the images are decoded;
            None: they are in any case.
        check: called once with the dataset, still without splits, before anything is decoded; raises where
            it does not suit.

    Raises:
        DataError: on anything that is not there, not readable, not writable, or too large for memory.
    """
    if dataset_config.folder or dataset_config.name != 'digits':
        return _tfds(dataset_config, splits, memory, check)
    if memory is not None and dataset_config.loader == 'streaming':
        raise DataError('config.dataset.loader=streaming: not for digits, which lie in memory; use resident.')
    return _digits(dataset_config, splits, check)


def choose_loader(loader: str, needed: int, free: float) -> tuple[str, str]:
    """Returns resident or streaming, and why.

    Args:
        loader: config.dataset.loader.
        needed: bytes of all splits once decoded.
        free: bytes on all devices together, among which large splits are divided. Auto takes at most 40 % of
            them: the model needs the rest.

    Raises:
        DataError: where resident splits cannot fit.
    """
    sizes = f'{needed / 1e9:,.2f} GB decoded, {free / 1e9:,.1f} GB free'
    if loader == 'resident' and needed > free:
        raise DataError(
            f'config.dataset.loader=resident: the images do not fit in memory ({sizes}). Use auto or '
            'streaming.'
        )
    if loader != 'auto':
        return loader, f'as config.dataset.loader says ({sizes})'
    fits = needed <= RESIDENT_SHARE * free
    relation = 'at most' if fits else 'more than'
    return 'resident' if fits else 'streaming', f'{sizes}: {relation} {RESIDENT_SHARE:.0%}'


def _digits(dataset_config: ConfigDict, splits: Sequence[str], check: Callable) -> Dataset:
    """The 1,797 handwritten digits of scikit-learn, 8x8 grey; a fixed fifth of each class is `test`."""
    records.check_splits('digits', splits, ('train', 'test'))
    if dataset_config.image_size not in (0, 8):
        raise DataError('config.dataset.image_size: the digits have 8 x 8 pixels, and are not resized.')
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    dataset = Dataset('digits', '1.0.0', tuple(map(str, digits.target_names)), (8, 8, 1))
    check(dataset)
    images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    loaded = {}
    for split, rows in (('train', np.sort(train)), ('test', np.sort(test))):
        ids = np.array([f'{split}-{index}' for index in range(len(rows))])
        loaded[split] = Split(images[rows], labels[rows], ids)
    return replace(dataset, splits={split: loaded[split] for split in splits})


def _tfds(
    dataset_config: ConfigDict, splits: Sequence[str], memory: float | None, check: Callable
) -> Dataset:
    prepared = prepare.find_or_prepare(dataset_config, splits)
    name = prepared.name  # without any :version
    image_size = dataset_config.image_size
    # The folder is part of the key, so that two copies of a dataset do not replace each other's cache.
    location = hashlib.sha256(str(prepared.folder.resolve()).encode()).hexdigest()[:8]
    size = f'-{image_size}px' if image_size else ''
    folder = _cache_dir(dataset_config.cache_dir) / name / f'{prepared.version}-{location}{size}'
    cached = {split: cache.read(folder, split, prepared.fingerprint) for split in splits}
    opened = {
        split: records.Records(prepared, split, image_size) for split in splits if cached[split] is None
    }
    shapes = {
        split: tuple(opened[split].shape if split in opened else cached[split]['images'].shape[1:])
        for split in splits
    }
    image_shape = shapes[splits[0]]
    if set(shapes.values()) != {image_shape}:
        listed = ', '.join(f'{split} {" x ".join(map(str, shape))}' for split, shape in shapes.items())
        raise DataError(
            f'{name} has images of different sizes ({listed}): resize them all with '
            '--config.dataset.image_size=PIXELS.'
        )
    if opened:
        class_names = next(iter(opened.values())).class_names
    else:
        class_names = tuple(map(str, cached[splits[0]]['class_names']))
    others = tuple(split for split in prepared.splits if split not in splits)
    dataset = Dataset(name, prepared.version, class_names, image_shape, other_splits=others)
    check(dataset)

    loader, reason = 'resident', ''
    if memory is not None:
        sizes = (len(opened[split] if split in opened else cached[split]['labels']) for split in splits)
        needed = sum(sizes) * int(np.prod(image_shape))
        loader, reason = choose_loader(dataset_config.loader, needed, memory)
    loaded = {}
    for split in splits:
        if loader == 'streaming':
            source = opened.get(split) or records.Records(prepared, split, image_size)
            loaded[split] = _encoded(folder, source, prepared)
            continue
        if (entries := cached[split]) is None:
            _fill_cache(folder, opened[split], prepared)
            entries = cache.read(folder, split, prepared.fingerprint)
            if entries is None:
                raise DataError(f'What was just written to {folder} reads back damaged: check that disk.')
        loaded[split] = Split(entries['images'], entries['labels'], entries['ids'])
    return replace(dataset, splits=loaded, loader=loader, reason=reason)


def _encoded(folder: Path, source: records.Records, prepared: records.Prepared) -> Split:
    """Returns a split whose images are not decoded; reads through its records once for labels and ids."""
    split = source.split
    index = cache.read_index(folder, split, prepared.fingerprint)
    if index is None:
        title = f'Reading the labels of {split} of {prepared.name}, {len(source):,} records (only this once)'
        labels, ids = [], []
        for _, chunk_labels, chunk_ids in track(
            source.encoded(), len(source), title, size=lambda chunk: len(chunk[1])
        ):
            labels.append(chunk_labels)
            ids.extend(chunk_ids)
        index = {'labels': np.concatenate(labels), 'ids': np.array(ids)}
        cache.write_index(folder, split, prepared.fingerprint, **index)
    filename = cache.index_path(folder, split)
    images = EncodedImages(
        source.shards, source.shape, filename, resize=source.resize, as_first=source.as_first
    )
    return Split(images, index['labels'], index['ids'])


def _cache_dir(cache_dir: str) -> Path:
    if cache_dir:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'jax-classifiers'


def _fill_cache(folder: Path, source: records.Records, prepared: records.Prepared) -> None:
    """Decodes a split into the cache, in several processes where that is faster."""
    split = source.split
    shape = (len(source), *source.shape)
    title = f'Decoding {split} of {prepared.name}, {len(source):,} images (only this once)'

    def fill(processes: int) -> None:
        chunks = track(source.decoded(processes), len(source), title, size=lambda chunk: len(chunk[0]))
        cache.write(folder, split, prepared.fingerprint, shape, chunks, source.class_names)

    try:
        fill(decoding.process_count(len(source), source.encoded_bytes))
    except BrokenProcessPool:  # workers cannot start in a script without a main guard, or were killed
        fill(1)
