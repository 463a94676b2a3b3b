"""In which order a split is read, and in which batches: pure functions of seed and epoch."""

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # workers that decode import this file, and need none of it
    from input_pipeline.sources import Split

_ALIGNMENT = 64  # bytes


class Resident:
    """A split that lies on the devices as a whole; batches are rows of indices gathered there.

    Attributes:
      arrays: `image` uint8[n, height, width, channels] and `label` int32[n], to be put on the devices.
      labels: int32[n].
      ids: str[n].
      size: number of examples.
    """

    def __init__(self, split: 'Split', indices: np.ndarray | None = None):
        """Keeps the examples at `indices` int[n] (all of them by default)."""
        chosen = slice(None) if indices is None else indices
        images = np.asarray(split.images) if indices is None else _take(split.images, indices)
        self.arrays = {'image': images, 'label': split.labels[chosen]}
        self.labels = self.arrays['label']
        self.ids = split.ids[chosen]
        self.size = len(self.ids)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the examples at `indices` int[k]: `image` uint8[k, …] and `label` int32[k]."""
        return {name: array[indices] for name, array in self.arrays.items()}


def _take(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Returns images[indices], aligned so that JAX uses them where they lie on a CPU, without a copy."""
    shape = len(indices), *images.shape[1:]
    memory = np.empty(math.prod(shape) + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    taken = memory[start : start + math.prod(shape)].reshape(shape)
    return np.take(images, indices, axis=0, out=taken, mode='clip')  # any other mode makes a copy first


def steps_per_epoch(size: int, batch_size: int, *, drop_last: bool) -> int:
    """Returns the number of training batches in an epoch."""
    return size // batch_size if drop_last else -(-size // batch_size)


def training_order(size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch (0-based), int32[size], a permutation given by seed and epoch alone."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(size).astype(np.int32)


def evaluation_order(size: int, batch_size: int) -> np.ndarray:
    """Returns rows of indices, int32[batches, batch_size], in which -1 pads the last row."""
    order = np.pad(np.arange(size, dtype=np.int32), (0, -size % batch_size), constant_values=-1)
    return order.reshape(-1, batch_size)
