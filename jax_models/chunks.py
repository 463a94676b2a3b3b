"""Work on a batch in chunks that stay in a CPU's cache."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jax import Array, lax
from jax import numpy as jnp

_SECOND_LEVEL_CACHE = Path('/sys/devices/system/cpu/cpu0/cache/index2/size')  # of a core, such as 2048K


def _chunk_bytes() -> int:
    """Returns how many bytes of activations a chunk holds; what is made of them takes a few times as much."""
    try:
        return 2**21 if int(_SECOND_LEVEL_CACHE.read_text().rstrip('K\n')) >= 2048 else 2**20
    except (OSError, ValueError):
        return 2**20  # not Linux


_CHUNK_BYTES = _chunk_bytes()


def chunk_size(batch: int, bytes_per_image: int, least: int = 1) -> int:
    """Returns how many images to take at a time: a divisor of the batch, or what leaves few images over."""
    size = min(batch, max(_CHUNK_BYTES // bytes_per_image, least))
    divisor = next(n for n in range(size, 0, -1) if batch % n == 0)
    return divisor if 2 * divisor >= size else math.ceil(batch / math.ceil(batch / size))


def over_chunks(step: Callable, size: int, sums: Any, *arrays: Array) -> tuple[Any, Array | None]:
    """Scans the batch in chunks: `step(sums, *chunks) -> sums, chunk of the output`.

    The last chunk is filled with zeros, which must add nothing to the sums.
    """
    batch = len(arrays[0])
    if batch % size:
        arrays = [jnp.pad(a, [(0, -batch % size), *((0, 0),) * (a.ndim - 1)]) for a in arrays]

    def body(sums, start):
        # Slices, where `scan` over a reshaped array would have XLA make that one too.
        return step(sums, *(lax.dynamic_slice_in_dim(a, start, size) for a in arrays))

    sums, outputs = lax.scan(body, sums, jnp.arange(0, batch, size))
    return sums, None if outputs is None else outputs.reshape(-1, *outputs.shape[2:])[:batch]


def product(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    """Multiplies two matrices, summing over the given axes."""
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())))


def pad(array: Array, *pads: tuple[int, int]) -> Array:
    """Adds zeros before and after the second axis and those behind it; takes entries off where negative."""
    pads = ((0, 0), *pads, *((0, 0),) * (array.ndim - 1 - len(pads)))
    return lax.pad(array, np.zeros((), array.dtype), [(*low_high, 0) for low_high in pads])
