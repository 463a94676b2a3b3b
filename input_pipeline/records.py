"""Reads prepared TFDS datasets (array_record) without TensorFlow, and says clearly what is wrong with one.

A prepared dataset is a folder DATA_DIR/name[/config]/version. What can be told from its files' names and
JSON is read without importing tensorflow_datasets, which takes a second.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input_pipeline import DataError, decoding

_CHUNK = 1000  # records


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
        raise DataError(
            f'{folder / "dataset_info.json"} is damaged ({error}). Remove that folder, so that the dataset '
            'is prepared anew, or copy it again from where it came from.'
        ) from error
    return Prepared(name, folder, versions[-1], splits, tuple(formats), digest.hexdigest())


def _versions(folder: Path) -> list[str]:
    """The prepared versions in a folder, oldest first."""
    names = (path.parent.name for path in folder.glob('*/dataset_info.json'))
    found = [name for name in names if re.fullmatch(r'\d+\.\d+\.\d+', name)]
    return sorted(found, key=lambda version: [int(part) for part in version.split('.')])


class Records:
    """The records of one split, checked when opened.

    Attributes:
        shape: (height, width, channels) of every image.
        class_names: one per class.
        shards: files, and how many records each holds.

    Raises:
        DataError: on features that are not those of image classification, and on missing, truncated or
            damaged shards.
    """

    def __init__(self, prepared: Prepared, split: str):
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
        if None in image.shape or image.np_dtype != np.uint8 or image.shape[-1] not in (1, 3, 4):
            raise DataError(
                f'{info.full_name} has images of shape {image.shape} and type {np.dtype(image.np_dtype)}, '
                'but they must be uint8 and all of one size. Choose another config.dataset.name.'
            )
        self.shape = tuple(image.shape)
        self.class_names = tuple(label.names)
        self._has_ids = isinstance(features.get('id'), tfds.features.Text)
        split_info = info.splits[split]
        self.shards = list(zip(map(Path, split_info.filepaths), split_info.shard_lengths, strict=True))
        self._check_shards()

    def __len__(self) -> int:
        return sum(length for _, length in self.shards)

    def encoded(self) -> Iterator[tuple[list[bytes], np.ndarray, list[str]]]:
        """Yields, a thousand at a time: encoded images, labels int32[k] and ids."""
        from tensorflow_datasets.proto import tf_example_pb2

        read = 0
        for path, length in self.shards:
            reader = self._open(path)
            for start in range(0, length, _CHUNK):
                try:
                    records = reader.read(start, min(start + _CHUNK, length))
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
                if labels.min() < 0 or labels.max() >= len(self.class_names):
                    raise DataError(f'The images in split {self.split} of {self.folder} have no labels.')
                yield images, labels, ids
                read += len(records)

    def decoded(self, processes: int) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
        """Yields, a thousand at a time: images uint8[k, height, width, channels], labels int32[k] and ids."""
        done = 0
        try:
            for chunk in decoding.decode_all(self.encoded(), self.shape, processes):
                yield chunk
                done += len(chunk[0])
        except decoding.UndecodableImage as error:
            position, reason = error.args
            raise self._damaged(f'the image in record {done + position:,} is damaged ({reason})') from error

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

    def _open(self, path: Path):
        from array_record.python import array_record_module

        try:
            return array_record_module.ArrayRecordReader(str(path))
        except Exception as error:
            raise self._damaged(f'{path.name} is truncated or damaged ({error})') from error

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f'Split {self.split} of the dataset in {self.folder} cannot be used: {what}. Remove that folder, '
            'so that the dataset is prepared anew, or copy it again from where it came from.'
        )
