"""In which order a split is read, and in which batches: pure functions of seed and epoch."""

import numpy as np

from input_pipeline.sources import Split


class Resident:
    """A split that lies on the devices as a whole; batches are rows of indices gathered there.

    Attributes:
      arrays: `image` uint8[n, height, width, channels] and `label` int32[n], to be put on the devices.
      labels: int32[n].
      ids: str[n].
      size: number of examples.
    """

    def __init__(self, split: Split, indices: np.ndarray | None = None):
        """Keeps the examples at `indices` int[n] (all of them by default)."""
        chosen = slice(None) if indices is None else indices
        self.arrays = {
            'image': np.ascontiguousarray(split.images[chosen]),
            'label': np.ascontiguousarray(split.labels[chosen]),
        }
        self.labels = self.arrays['label']
        self.ids = split.ids[chosen]
        self.size = len(self.ids)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the examples at `indices` int[k]: `image` uint8[k, …] and `label` int32[k]."""
        return {name: array[indices] for name, array in self.arrays.items()}


def steps_per_epoch(size: int, batch_size: int, *, drop_last: bool) -> int:
    """Returns the number of training batches in an epoch."""
    return size // batch_size if drop_last else -(-size // batch_size)


def training_order(size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch (0-based), int32[size], a permutation given by seed and epoch alone."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(size).astype(np.int32)


def evaluation_order(size: int, batch_size: int) -> np.ndarray:
    """Returns rows of indices, int32[batches, batch_size], in which -1 pads the last row."""
    batches = -(-size // batch_size)
    order = np.full(batches * batch_size, -1, np.int32)
    order[:size] = np.arange(size)
    return order.reshape(batches, batch_size)
