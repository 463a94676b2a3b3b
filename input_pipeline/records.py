"""Reads prepared TFDS datasets (array_record) without TensorFlow, and says clearly what is wrong with one.

A prepared dataset is a folder DATA_DIR/name[/config]/version. What can be told from its files' names and
JSON is read without importing tensorflow_datasets, which takes a second.
"""

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline import REPAIR, DataError, decoding
from input_pipeline.encoded import other_size

_CHUNK = 1000  # records that are read at once, or fewer that take so many bytes, encoded or decoded
_CHUNK_BYTES = 2**24


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset on disk."""

    name: str
    folder: Path
    version: str
    splits: tuple[str, ...]
    formats: tuple[str, ...]  # array_record, tfrecord, …
    fingerprint: str  # changes with any file's name, size or time, and with the metadata


def default_data_dir() -> Path:
    """The folder TFDS itself uses."""
    return Path(os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()


def find(name: str, data_dir: Path) -> Prepared | None:
    """Returns the newest prepared version of `name` (also name/config and name:version), or None.

    Raises:
        DataError: where the folder's description is damaged, or data_dir is not the folder of all datasets.
    """
    name, _, version = name.partition(':')
    if (data_dir / 'dataset_info.json').exists() or (
        data_dir.name == name.split('/')[0] and _versions(data_dir) and not (data_dir / name).exists()
    ):
        parent = data_dir.parent if _versions(data_dir) else data_dir.parent.parent
        raise DataError(
            f'{data_dir} is the folder of one dataset; config.dataset.data_dir must be the folder above all '
            f'datasets: --config.dataset.data_dir={parent}'
        )
    versions = [version] if version else _versions(data_dir / name)
    folder = data_dir / name / versions[-1] if versions else None
    if folder is None or not (folder / 'dataset_info.json').exists():
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        state = path.stat()
        digest.update(f'{path.name} {state.st_size} {state.st_mtime_ns}\n'.encode())
    try:
        info = json.loads((folder / 'dataset_info.json').read_bytes())
        formats = [info.get('fileFormat', 'tfrecord'), *info.get('alternativeFileFormats', [])]
        splits = tuple(split['name'] for split in info['splits'])
        digest.update(json.dumps(info).encode())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{folder / "dataset_info.json"} is damaged ({error}). {REPAIR}') from error
    return Prepared(name, folder, versions[-1], splits, tuple(formats), digest.hexdigest())


def check_splits(name: str, splits: Sequence[str], available: Collection[str]) -> None:
    """Raises DataError where a split is not available."""
    for split in splits:
        if split not in available:
            raise DataError(
                f'{name} has no split {split!r}; it has {", ".join(available)}. In training splits are named '
                'by --config.dataset.train_split=, validation_split= (with validation=0), test_split= (empty '
                'for none) and --config.verification.split=, to evaluate.py by --split= or, for the images '
                'of --pairs, by --folder=.'
            )


def _versions(folder: Path) -> list[str]:
    """The prepared versions in a folder, oldest first."""
    names = (path.parent.name for path in folder.glob('*/dataset_info.json'))
    found = [name for name in names if re.fullmatch(r'\d+\.\d+\.\d+', name)]
    return sorted(found, key=lambda version: [int(part) for part in version.split('.')])


class Records:
    """The records of one split, checked when opened.

    Args:
        prepared: the dataset.
        split: one of its splits.
        image_size: side in pixels that images are resized and cropped to; 0: they must all have one size.

    Attributes:
        shape: (height, width, channels) of every image once decoded.
        class_names: one per class.
        shards: files, and how many records each holds.
        encoded_bytes: of all these files.
        resize: whether images are resized to that shape.
        as_first: whether that shape is the first image's, which others may not have.

    Raises:
        DataError: on features that are not those of image classification, and on missing, truncated or
            damaged shards.
    """

    def __init__(self, prepared: Prepared, split: str, image_size: int = 0):
        import tensorflow_datasets as tfds

        self.split = split
        self.folder = prepared.folder
        try:
            info = tfds.builder_from_directory(prepared.folder).info
            # Where it was converted from tfrecord, it lies there in both formats.
            info.set_file_format('array_record', override=True, override_if_initialized=True)
        except Exception as error:  # TFDS raises nearly anything on damaged JSON
            raise self._damaged(f'the description of its features cannot be read ({error})') from error
        features = dict(info.features) if isinstance(info.features, tfds.features.FeaturesDict) else {}
        image, label = features.get('image'), features.get('label')
        if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
            raise DataError(
                f'{info.full_name} is no image classification dataset: it has {", ".join(sorted(features))}, '
                'but needs the features `image` and `label`. Choose another config.dataset.name.'
            )
        channels = image.shape[-1]
        if image.np_dtype != np.uint8 or channels not in decoding.MODES:
            raise DataError(
                f'{info.full_name} has images of shape {image.shape} and type {np.dtype(image.np_dtype)}, '
                'but they must be uint8 of 1, 3 or 4 channels. Choose another config.dataset.name.'
            )
        self.class_names = tuple(label.names)
        self._has_ids = isinstance(features.get('id'), tfds.features.Text)
        split_info = info.splits[split]
        shards = zip(map(Path, split_info.filepaths), split_info.shard_lengths, strict=True)
        self.shards = [(path, length) for path, length in shards if length]
        if not self.shards:
            raise DataError(f'Split {split} of {info.full_name} in {prepared.folder} holds no images.')
        self._check_shards()
        self.encoded_bytes = sum(path.stat().st_size for path, _ in self.shards)
        self.resize = bool(image_size)
        self.as_first = None in image.shape and not image_size  # then all must have the size of the first
        if image_size:
            self.shape = image_size, image_size, channels
        else:
            self.shape = (*self._first_size(), channels) if self.as_first else tuple(image.shape)

    def __len__(self) -> int:
        return sum(length for _, length in self.shards)

    def encoded(self, most: int = _CHUNK) -> Iterator[tuple[list[bytes], np.ndarray, list[str]]]:
        """Yields, up to `most` at a time: encoded images, labels int32[k] and ids."""
        from tensorflow_datasets.proto import tf_example_pb2

        read, size = 0, max(1, min(most, _CHUNK_BYTES * len(self) // self.encoded_bytes))
        for path, length in self.shards:
            reader = self._open(path)
            for start in range(0, length, size):
                try:
                    records = reader.read(start, min(start + size, length))
                    # Parsed here rather than with TFDS's features, which take seven times as long.
                    examples = [
                        tf_example_pb2.Example.FromString(record).features.feature for record in records
                    ]
                    images = [example['image'].bytes_list.value[0] for example in examples]
                    labels = np.array(
                        [example['label'].int64_list.value[0] for example in examples], np.int32
                    )
                    if self._has_ids:
                        ids = [example['id'].bytes_list.value[0].decode() for example in examples]
                    else:
                        ids = [f'{self.split}-{read + index}' for index in range(len(records))]
                except Exception as error:  # array_record and protobuf raise RuntimeError, DecodeError, …
                    raise self._damaged(
                        f'{path.name} cannot be read from record {start} on ({error})'
                    ) from error
                wrong = labels[(labels < -1) | (labels >= len(self.class_names))]
                if wrong.size:
                    raise self._damaged(f'{path.name} has labels of no class, such as {wrong[0]}')
                yield images, labels, ids
                read += len(records)

    def decoded(self, processes: int) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
        """Yields the same with the images decoded: uint8[k, height, width, channels]."""
        done, size = 0, min(_CHUNK, max(1, _CHUNK_BYTES // math.prod(self.shape)))
        try:
            for chunk in decoding.decode_all(self.encoded(size), self.shape, processes, resize=self.resize):
                yield chunk
                done += len(chunk[0])
        except decoding.UndecodableImage as error:
            position, reason = error.args
            what = f'the image in record {done + position:,}'
            if self.as_first:
                raise other_size(
                    self.shape, f'{what} of split {self.split} of {self.folder}', reason
                ) from error
            raise self._damaged(f'{what} is damaged ({reason})') from error

    def _check_shards(self) -> None:
        """Reads the first and the last record of each shard: a truncated file fails there."""
        missing = [path.name for path, _ in self.shards if not path.exists()]
        if missing:
            raise self._damaged(f'of {len(self.shards)} files these are missing: {", ".join(missing)}')
        for path, length in self.shards:
            reader = self._open(path)
            if reader.num_records() != length:
                raise self._damaged(
                    f'{path.name} has {reader.num_records():,} records where {length:,} belong'
                )
            try:
                reader.read([0, length - 1])
            except Exception as error:
                raise self._damaged(f'{path.name} is truncated or damaged ({error})') from error

    def _first_size(self) -> tuple[int, int]:
        (content, *_), _, _ = next(self.encoded(1))
        try:
            with Image.open(io.BytesIO(content)) as image:
                return image.height, image.width
        except Exception as error:
            raise self._damaged(f'the image in record 0 is damaged ({error})') from error

    def _open(self, path: Path):
        from array_record.python import array_record_module

        try:
            return array_record_module.ArrayRecordReader(str(path))
        except Exception as error:
            raise self._damaged(f'{path.name} is truncated or damaged ({error})') from error

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f'Split {self.split} of the dataset in {self.folder} cannot be used: {what}. {REPAIR}'
        )
