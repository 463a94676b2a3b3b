"""Decoded images on disk: one memory-mapped uint8 array per split, its labels and ids beside it.

(Of a split that stays encoded, the labels and ids alone: `write_index`.)

A split is two files: `<split>.npy` with the images and `<split>.npz` with everything small, including the
fingerprint of the source and a checksum of the images. Both are written under other names and moved into
place, the .npz last, so a reader, or a second process that builds the same, never sees half of one.
"""

import contextlib
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from input_pipeline import DataError
from input_pipeline.writing import written

_CHECKED_BYTES = 2**28  # larger arrays are checked in evenly spaced images only


def read(folder: Path, split: str, fingerprint: str) -> dict[str, np.ndarray] | None:
    """Returns what `write` stored, images as a read-only np.memmap; None if absent, stale or damaged."""
    try:
        with np.load(folder / f'{split}.npz', allow_pickle=False) as stored:  # zip checks its own checksums
            entries = dict(stored)
        images = np.load(folder / f'{split}.npy', mmap_mode='r', allow_pickle=False)
        intact = (
            str(entries.pop('fingerprint')) == fingerprint
            and images.dtype == np.uint8
            and images.shape == tuple(entries.pop('shape'))
            and (folder / f'{split}.npy').stat().st_size == images.offset + images.nbytes
            and int(entries.pop('checksum')) == _checksum(images)
        )
    except Exception:  # NumPy and zipfile raise nearly anything on damaged files; all of it means: rebuild
        return None
    return {'images': images, **entries} if intact else None


def write(
    folder: Path,
    split: str,
    fingerprint: str,
    shape: tuple[int, int, int, int],
    chunks: Iterable[tuple[np.ndarray, np.ndarray, list[str]]],
    class_names: tuple[str, ...],
) -> None:
    """Stores a split from its chunks (images uint8[k, height, width, channels], labels int32[k], ids).

    Raises:
        DataError: where it cannot be written (no permission, full disk).
    """
    images_path, rest_path = folder / f'{split}.npy', folder / f'{split}.npz'
    labels, ids = [], []
    header = {'descr': '|u1', 'fortran_order': False, 'shape': shape}
    try:
        _remove_leftovers(folder, split)
        with written(rest_path) as rest_file, written(images_path) as images_file:  # the images come first
            with open(images_file, 'wb') as file:
                np.lib.format.write_array_header_1_0(file, header)
                for images, chunk_labels, chunk_ids in chunks:
                    file.write(images.data)
                    labels.append(chunk_labels)
                    ids.extend(chunk_ids)
            rest = {
                'labels': np.concatenate(labels),
                'ids': np.array(ids),
                'class_names': np.array(class_names),
                'shape': shape,
                'fingerprint': fingerprint,
                'checksum': _checksum(np.load(images_file, mmap_mode='r')),
            }
            with open(rest_file, 'wb') as file:
                np.savez(file, **rest)
    except OSError as error:
        raise DataError(
            f'Cannot write the cache of decoded images, {np.prod(shape) / 1e6:,.0f} MB, to {folder}: '
            f'{error.strerror or error}. Make it writable, free space there, or choose another folder with '
            '--config.dataset.cache_dir=DIR.'
        ) from error


def read_index(folder: Path, split: str, fingerprint: str) -> dict[str, np.ndarray] | None:
    """Returns the labels int32[n] and ids that `write_index` stored; None if absent, stale or damaged."""
    try:
        with np.load(index_path(folder, split), allow_pickle=False) as stored:
            index = dict(stored)
        return index if str(index.pop('fingerprint')) == fingerprint else None
    except Exception:  # as in `read`
        return None


def write_index(folder: Path, split: str, fingerprint: str, labels: np.ndarray, ids: list[str]) -> None:
    """Stores what a split that stays encoded needs beside its records; where it cannot, it stores nothing."""
    # Where that fails, the next run reads the records again.
    with contextlib.suppress(OSError), written(index_path(folder, split)) as path, open(path, 'wb') as file:
        np.savez(file, labels=labels, ids=np.array(ids), fingerprint=fingerprint)


def index_path(folder: Path, split: str) -> Path:
    """The file of `write_index`."""
    return folder / f'{split}.index.npz'


def _checksum(images: np.ndarray) -> int:
    """CRC-32 of all images, or of 256 MiB of evenly spaced ones where there are more."""
    step = 1 + images.nbytes // _CHECKED_BYTES
    checksum = 0
    for start in range(0, len(images), 1024 * step):
        checksum = zlib.crc32(np.ascontiguousarray(images[start : start + 1024 * step : step]), checksum)
    return checksum


def _remove_leftovers(folder: Path, split: str) -> None:
    """Removes what killed processes left behind: files no one has written to for an hour."""
    for path in folder.glob(f'{split}.*.tmp'):
        with contextlib.suppress(FileNotFoundError):  # another process is done with it
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink()
