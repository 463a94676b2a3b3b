"""Images that stay encoded in their array_record shards, decoded when they are asked for.

What streaming workers carry over and read from, so this imports little.
"""

import contextlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from input_pipeline import REPAIR, DataError, decoding


def other_size(shape: tuple[int, int, int], what: str, reason: str) -> DataError:
    """Returns the error of a dataset whose images should all have the shape of the first: `what` has not."""
    height, width, _ = shape
    return DataError(
        f'The images are not all of one size: the first has {width} x {height} pixels, and {what} does not '
        f'fit ({reason}). Resize them all, such as with --config.dataset.image_size={min(height, width)}.'
    )


class EncodedImages:
    """The images of a split, to be indexed like an array; every time they are read and decoded anew.

    Attributes:
      shape: (n, height, width, channels), as decoded.
      nbytes: of the decoded array.
      filename: of what is stored beside them (see cache.read_index); changes when they do.
    """

    def __init__(
        self,
        shards: Sequence[tuple[Path, int]],
        image_shape: tuple[int, int, int],
        filename: Path,
        *,
        resize: bool = False,
        as_first: bool = False,
    ):
        """`shards` are files and how many records each holds; `resize` as in decoding.decode.

        `as_first`: the shape is that of the first image, which others may not have.
        """
        self._paths = [str(path) for path, _ in shards]
        self._states = self._file_states()
        self._ends = np.cumsum([length for _, length in shards])
        self.shape = (int(self._ends[-1]), *image_shape)
        self.nbytes = int(np.prod(self.shape, dtype=np.int64))
        self.filename = filename
        self._resize, self._as_first = resize, as_first

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Sequence[int]) -> np.ndarray:
        """Returns uint8[k, height, width, channels].

        Raises:
          DataError: naming the record that cannot be read or decoded, and its file.
        """
        from tensorflow_datasets.proto import tf_example_pb2

        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        shard_of = np.searchsorted(self._ends, rows, side='right')
        for shard in np.unique(shard_of):
            positions = np.flatnonzero(shard_of == shard)
            records = (rows[positions] - (self._ends[shard - 1] if shard else 0)).tolist()
            path, encoded = self._paths[shard], []
            try:
                for content in self._readers[shard].read(records):
                    feature = tf_example_pb2.Example.FromString(content).features.feature
                    encoded.append(feature['image'].bytes_list.value[0])
            except Exception as error:  # array_record and protobuf raise RuntimeError, DecodeError, …
                raise DataError(f'{path}: records {min(records)} to {max(records)}: {error}') from None
            try:
                images[positions] = decoding.decode(encoded, self.shape[1:], resize=self._resize)
            except decoding.UndecodableImage as error:
                index, reason = error.args
                if self._as_first:
                    what = f'record {records[index]:,} of {path}'
                    raise other_size(self.shape[1:], what, reason) from None
                raise DataError(
                    f'{path}: the image in record {records[index]:,} is damaged ({reason}). {REPAIR}'
                ) from None
        return images

    @cached_property
    def _readers(self) -> list:
        from array_record.python import array_record_module

        # Each holds its file open, and a shell allows 1,024 unless it is asked for more.
        with contextlib.suppress(ImportError, OSError, ValueError):  # not on Windows; macOS refuses infinity
            import resource

            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        readers = [array_record_module.ArrayRecordReader(path) for path in self._paths]
        if self._file_states() != self._states:
            raise DataError(
                f'{Path(self._paths[0]).parent} was prepared anew while this run used it, so that labels '
                'and images no longer belong together. Run the same command again.'
            )
        return readers

    def _file_states(self) -> list[tuple[int, int]]:
        return [(state.st_size, state.st_mtime_ns) for state in map(os.stat, self._paths)]

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != '_readers'}
