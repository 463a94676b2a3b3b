"""A split too large for the devices: its batches are read and decoded ahead of their use.

Grain's worker processes import this file, so it imports little.
"""

import gc
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline import DataError, decoding
from input_pipeline.encoded import EncodedImages
from input_pipeline.loaders import evaluation_order, steps_per_epoch, training_order
from input_pipeline.workers import follow_parent

if TYPE_CHECKING:
    from input_pipeline.sources import Split

_READ_AHEAD_BYTES = 2**30  # of the batches that threads work on
_AHEAD = 2  # batches that a worker may be ahead
_SHARED_MEMORY = Path('/dev/shm')


class Streaming:
    """A split that stays on disk, of which batches are read in the order that `Resident` would give them.

    Attributes:
      labels: int32[n].
      ids: str[n].
      size: number of examples.
    """

    def __init__(self, split: 'Split', indices: np.ndarray | None = None, *, workers: int):
        """Keeps the examples at `indices` int[n] (all of them by default).

        Args:
          split: with encoded images.
          indices: see above.
          workers: config.dataset.workers: processes that decode training batches; 0: threads of this one;
            -1: one process for each core, shared with other processes that train on this machine, or threads
            where there are no more than two.
        """
        rows = np.arange(len(split.labels)) if indices is None else indices
        self._images: EncodedImages = split.images
        self._rows = rows.astype(np.int32)
        self._workers = workers
        self.labels, self.ids = split.labels[rows], split.ids[rows]
        self.size = len(rows)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the examples at `indices` int[k]: `image` uint8[k, …] and `label` int32[k]."""
        return {'image': self._images[self._rows[indices]], 'label': self.labels[indices]}

    def training_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epochs: int,
        drop_last: bool,
        start: int,
        part: tuple[int, int] = (0, 1),
        local_processes: int = 1,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields the batches of all epochs, from step `start` of the run on. To be closed after use.

        Of several processes that train together, `part` (i, n) gets the i-th of n equal parts of each batch;
        `local_processes` of them run on this machine.

        Raises:
          DataError: a record is damaged, or a worker died.
        """
        steps = steps_per_epoch(self.size, batch_size, drop_last=drop_last)
        indices = _TrainingIndices(self.size, batch_size, steps, epochs, seed, part)
        part_bytes = batch_size // part[1] * self._image_bytes
        workers = _worker_count(self._workers, part_bytes, local_processes)
        return self._batches(indices, start, workers, part_bytes)

    def evaluation_batches(
        self, batch_size: int, *, part: tuple[int, int] = (0, 1)
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields the split in its order, the last batch filled up with images that do not count.

        By threads: they have started at once, and keep up with a forward pass.
        """
        rows = np.split(evaluation_order(self.size, batch_size), part[1], axis=1)[part[0]]
        return self._batches(rows, 0, 0, rows.shape[1] * self._image_bytes)

    @property
    def _image_bytes(self) -> int:
        return self._images.nbytes // len(self._images)

    def _batches(
        self, indices, start: int, workers: int, batch_bytes: int
    ) -> Iterator[dict[str, np.ndarray]]:
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain reads its flags also where absl has not started the program
            flags.FLAGS.mark_as_parsed()
        most = min(decoding.core_count(), decoding.MAX_PROCESSES, _READ_AHEAD_BYTES // batch_bytes)
        threads = 1 if workers else max(1, most)
        images = grain.MapDataset.source(_Images(self._images, self._rows, indices))[start:].to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
        )
        if workers:
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD)
            images = images.mp_prefetch(options, worker_init_fn=_start_worker)
        iterator = iter(images)
        try:
            for step in range(start, len(indices)):
                # A copy, since a worker's batch lies in shared memory, which is freed with the array.
                image = np.array(_next(iterator))
                yield {'image': image, 'label': self.labels[np.maximum(indices[step], 0)]}
        finally:
            iterator.close()
            gc.collect()  # frees the shared memory of what was read ahead, before Python's exit complains


class _TrainingIndices:
    """The indices of each step of a run, all its epochs one after the other."""

    def __init__(self, size: int, batch_size: int, steps: int, epochs: int, seed: int, part: tuple[int, int]):
        self._size, self._seed = size, seed
        self._batch_size, self._steps, self._epochs, self._part = batch_size, steps, epochs, part

    def __len__(self) -> int:
        return self._epochs * self._steps

    def __getitem__(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self._steps)
        order = _order(self._size, self._seed, epoch)
        batch = order[position * self._batch_size : (position + 1) * self._batch_size]
        return np.split(batch, self._part[1])[self._part[0]]


# Two, since threads may be in two epochs at once.
@lru_cache(maxsize=2)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    return training_order(size, seed=seed, epoch=epoch)


class _Images:
    """The images of each step, which Grain asks for by number."""

    def __init__(self, images: EncodedImages, rows: np.ndarray, indices):
        self._images, self._rows, self._indices = images, rows, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, step: int) -> np.ndarray:
        indices = self._indices[step]
        return self._images[self._rows[np.maximum(indices, 0)]]


def _next(iterator) -> np.ndarray:
    try:
        return next(iterator)
    except RuntimeError as error:
        if 'terminated unexpectedly' not in str(error):
            raise
        code = str(error).rpartition('exit code ')[2].partition('.')[0]
        raise DataError(
            f'A worker process that decodes images died with exit code {code} (-9: killed, often for want of '
            'memory; 1: see above, or the script that started this has no `if __name__ == "__main__":`). '
            'Run the same command again to continue, with another --config.dataset.workers; 0 needs none.'
        ) from error


def _worker_count(workers: int, batch_bytes: int, local_processes: int) -> int:
    """Returns how many processes to start for config.dataset.workers; 0: threads."""
    if getattr(multiprocessing.current_process(), '_inheriting', False):
        raise DataError(
            'Worker processes import the script that started the run, which must therefore start it only '
            'under `if __name__ == "__main__":`. Or use --config.dataset.workers=0.'
        )
    cores = decoding.core_count()
    if cores == os.cpu_count():  # else this process has its own, as SLURM gives them
        cores //= local_processes
    wanted = min(cores if cores > 2 else 0, decoding.MAX_PROCESSES) if workers < 0 else workers
    if not _SHARED_MEMORY.exists():
        return wanted
    room = shutil.disk_usage(_SHARED_MEMORY).free // local_processes // ((2 * _AHEAD + 1) * batch_bytes)
    if wanted > room and workers > 0:
        raise DataError(
            f'config.dataset.workers={workers}: {_SHARED_MEMORY}, through which workers send their batches, '
            f'has room for {room}. Enlarge it (docker run --shm-size=8g), or set --config.dataset.workers=0.'
        )
    return min(wanted, room)


def _start_worker(index: int, count: int) -> None:
    """Runs in each worker process."""
    follow_parent()
    # A cluster's SIGTERM goes to every process; the parent still wants its batches then.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
