"""Winograd's convolution F(4x4, 3x3): tiles of 4x4 outputs with a quarter of the multiplications.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015. The backward pass is the exact
adjoint of the forward pass, so both gradients share one transform of the output's gradient.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp

from jax_models.chunks import chunk_size, over_chunks, pad, product

MIN_TILES = 128  # in a batch; fewer do not pay for the transforms of the kernel
_TILE = 4  # outputs on a side of a tile; six inputs
# The transforms evaluate polynomials at these points and at infinity. The usual 0, +-1, +-2 lose three
# times the accuracy.
_POINTS = math.sqrt(0.5) * np.array([0, 1, -1, 2, -2])


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns A [6, 4], B [6, 6] and G [6, 3] such that A' ((G w) * (B x)) is x convolved with w."""
    output = np.vander(_POINTS, _TILE, increasing=True)
    kernel = np.vander(_POINTS, 3, increasing=True)
    kernel /= [[math.prod(p - q for q in _POINTS if q != p)] for p in _POINTS]
    output, kernel = (np.vstack([m, np.eye(m.shape[1])[-1]]) for m in (output, kernel))
    # Output i takes input i + j times tap j.
    products = np.einsum('pi,pj->ijp', output, kernel).reshape(-1, 6)
    inputs = np.eye(6)[np.add.outer(np.arange(_TILE), np.arange(3)).ravel()]
    transform = np.linalg.lstsq(products, inputs, rcond=None)[0]
    return output, np.where(abs(transform) < 1e-9, 0, transform), kernel


_A, _B, _G = _matrices()


@jax.custom_vjp
def convolve(images: Array, kernel: Array) -> Array:
    """Convolves float32[batch, height, width, channels] with [3, 3, channels, features] at padding 1."""
    channels, features = kernel.shape[2:]
    if min(channels, features) < 64:  # the transforms would take longer than the products
        return lax.conv_general_dilated(
            images, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )
    kernels = _transform_kernel(kernel)

    def step(_, chunk):
        products = jax.tree.map(lambda x, u: product(x, u, 1, 0), _tiles(_B, chunk, 1), kernels)
        return None, _images(_A, products, _interleave, (*chunk.shape[:3], features))

    return over_chunks(step, _chunk(images, features), None, images)[1]


def _backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    images, kernel = residuals
    kernels = _transform_kernel(kernel)

    def step(sums, chunk, gradient):
        inputs, gradients = _tiles(_B, chunk, 1), _tiles(_A, gradient, 0)
        sums = jax.tree.map(lambda s, x, g: s + product(x, g, 0, 0), sums, inputs, gradients)
        products = jax.tree.map(lambda g, u: product(g, u, 1, 1), gradients, kernels)
        return sums, _images(_B, products, _overlap, chunk.shape)

    zeros = jax.tree.map(jnp.zeros_like, kernels)
    size = _chunk(images, kernel.shape[3])
    sums, image_gradient = over_chunks(step, size, zeros, images, gradient)
    sums = jnp.stack([jnp.stack(row) for row in sums])
    kernel_gradient = jnp.einsum('ai,bj,abck->ijck', _G, _G, sums, precision='highest')
    return image_gradient, kernel_gradient.astype(jnp.float32)


convolve.defvjp(lambda images, kernel: (convolve(images, kernel), (images, kernel)), _backward)


def _chunk(images: Array, features: int) -> int:
    batch, height, width, channels = images.shape
    tiles = tile_count((height, width))
    return chunk_size(batch, 4 * height * width * max(channels, features), -(-MIN_TILES // tiles))


def tile_count(size: Sequence[int]) -> int:
    """Returns how many tiles cover an image of this height and width."""
    return math.prod(-(-n // _TILE) for n in size)


def _combine(matrix: np.ndarray, arrays: Sequence[Array]) -> list[Array]:
    """Multiplies a matrix with a vector of arrays, leaving zeros out."""
    return [
        functools.reduce(
            jnp.add, [x if c == 1 else np.float32(c) * x for c, x in zip(row, arrays, strict=True) if c]
        )
        for row in matrix
    ]


def _apart(arrays):
    """Keeps XLA from fusing the two passes of a transform, which would compute the first six times."""
    return lax.optimization_barrier(arrays)


def _transform_kernel(kernel: Array) -> list[list[Array]]:
    """Returns 6 x 6 arrays [channels, features]."""
    columns = _apart([_combine(_G, kernel[:, j]) for j in range(3)])
    return _apart([_combine(_G, row) for row in zip(*columns, strict=True)])


def _tiles(matrix: np.ndarray, images: Array, border: int) -> list[list[Array]]:
    """Cuts images into tiles, four apart and overlapping by the borders, and transforms them.

    Returns 6 x 6 arrays [tiles, channels].
    """
    height, width = (n + -n % _TILE for n in images.shape[1:3])
    images = pad(images, *((border, border + -n % _TILE) for n in images.shape[1:3]))
    count = matrix.shape[1]
    rows = _apart(_combine(matrix, [images[:, i : i + height : _TILE] for i in range(count)]))
    columns = [[r[:, :, j : j + width : _TILE] for j in range(count)] for r in rows]
    return [[x.reshape(-1, x.shape[3]) for x in _combine(matrix, row)] for row in columns]


def _images(matrix: np.ndarray, products: list[list[Array]], join: Callable, shape: Sequence[int]) -> Array:
    """Applies the adjoint of `_tiles`: transforms 6 x 6 arrays and joins the tiles to images."""
    batch, height, width, channels = shape
    tiles = (batch, -(-height // _TILE), -(-width // _TILE), channels)
    rows = [join(_combine(matrix.T, [x.reshape(tiles) for x in row]), 2) for row in products]
    return join(_combine(matrix.T, _apart(rows)), 1)[:, :height, :width]


def _overlap(parts: list[Array], axis: int) -> Array:
    """Adds tiles of six, four apart, the first beginning at -1 (which is left out)."""
    parts = _apart(parts)
    # The last of a tile meets the second of the next one, the first the last but one of the one before.
    before = [(0, 0)] * (axis - 1)
    second = parts[1] + pad(parts[5], *before, (1, -1))
    last = parts[4] + pad(parts[0], *before, (-1, 1))
    return _interleave([second, parts[2], parts[3], last], axis)


def _interleave(parts: Sequence[Array], axis: int) -> Array:
    """Lays arrays out along an axis as a0, b0, …, a1, b1, …"""
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return jnp.stack(parts, axis + 1).reshape(shape)
