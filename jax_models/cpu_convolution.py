"""A drop-in for `lax.conv_general_dilated` that trains much faster on a CPU.

XLA's kernel gradients take five to ten times as long as its forward passes on a CPU, and its convolutions
inside loops run on one thread. Matrix products are fast in both, so here convolutions become matrix
products over chunks of the batch that stay in the cache:

- 3x3 kernels, stride 1: Winograd's F(4x4, 3x3), with a quarter of the multiplications (Lavin and Gray,
  "Fast Algorithms for Convolutional Neural Networks", 2015). The backward pass is the exact adjoint of the
  forward pass, so both gradients share one transform of the output's gradient.
- 1x1 kernels: one product.
- images of a few pixels: the taps of the kernel side by side in one product; XLA's forward pass is up to 25
  times slower at 2x2 pixels.
- other kernels and strides: the same for the gradients alone.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp

_CHUNK_BYTES = 2**20  # of activations; their transforms take a few times as much
# Below so many floating point operations XLA takes a millisecond or two, and compiles faster.
_MIN_FLOPS = 2e7
_MIN_FLOPS_WINOGRAD = 2e8
_MIN_TILES = 128  # in a batch; fewer do not pay for the transforms of the kernel
_LAYOUT = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
_Pads = tuple[tuple[int, int], tuple[int, int]]


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvDimensionNumbers | Sequence[str] | None = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: jax.typing.DTypeLike | None = None,
) -> Array:
    """Convolves as `lax.conv_general_dilated` does; made for `nn.Conv(conv_general_dilated=…)`.

    Covers float32[batch, height, width, channels] with float32[kernel_height, kernel_width, channels,
    features]; groups, dilations, other types and layouts, and small problems go to XLA. Results differ from
    the exact ones by some 1e-6 of the largest. Where this module does the work, the first derivatives are
    reverse mode only; second derivatives are not supported.
    """
    if lhs.ndim == 4 and rhs.ndim == 4 and lhs.dtype == rhs.dtype == jnp.float32:
        plain = (
            lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == _LAYOUT
            and feature_group_count == batch_group_count == 1
            and all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
            and precision is None
            and preferred_element_type in (None, jnp.float32)
        )
        if plain:
            if isinstance(padding, str):
                padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
            pads = tuple((int(low), int(high)) for low, high in padding)
            convolve = _choose(lhs.shape, rhs.shape, tuple(window_strides), pads)
            if convolve is not None:
                return convolve(lhs, rhs)
    dilations, groups = (lhs_dilation, rhs_dilation), (feature_group_count, batch_group_count)
    options = (*dilations, dimension_numbers, *groups, precision, preferred_element_type)
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, *options)


def _choose(shape, kernel_shape, strides, pads):
    """Returns the function of images and kernel that is fastest for these shapes; None: XLA's."""
    batch, *size, channels = shape
    *kernel_size, _, features = kernel_shape
    out = _out_size(size, kernel_size, strides, pads)
    flops = 2 * batch * math.prod(out) * math.prod(kernel_shape)
    if flops < _MIN_FLOPS or min(map(min, pads)) < 0:
        return None
    if kernel_size == [1, 1] and pads == ((0, 0), (0, 0)):
        return functools.partial(_pointwise, strides=strides)
    tiles = _tile_count(out)
    if math.prod(out) <= 9 or batch * tiles < _MIN_TILES:
        return functools.partial(_patch_product, strides, pads)
    if kernel_size == [3, 3] and strides == (1, 1) and pads == ((1, 1), (1, 1)):
        saved = 1 - 36 * tiles / (9 * math.prod(out))  # a tile takes 36 products, and 9 a pixel otherwise
        if saved > 0.3 and min(channels, features) >= 32 and flops >= _MIN_FLOPS_WINOGRAD:
            return _winograd
    return functools.partial(_taps, strides, pads)


def _out_size(size, kernel_size, strides, pads) -> list[int]:
    return [(n + sum(p) - k) // s + 1 for n, k, s, p in zip(size, kernel_size, strides, pads, strict=True)]


def _pad(images: Array, pads: _Pads) -> Array:
    return jnp.pad(images, ((0, 0), *pads, (0, 0)))


def _chunk_size(batch: int, bytes_per_image: int, least: int = 1) -> int:
    """Returns how many images to take at a time, a divisor of the batch."""
    size = min(batch, max(_CHUNK_BYTES // bytes_per_image, least))
    return next(n for n in range(size, 0, -1) if batch % n == 0)


def _over_chunks(step: Callable, size: int, sums: Any, *arrays: Array) -> tuple[Any, Array | None]:
    """Scans the batch in chunks: `step(sums, *chunks) -> sums, chunk of the output`."""

    def body(sums, start):
        # Slices, where `scan` over a reshaped array would have XLA make that one too.
        return step(sums, *(lax.dynamic_slice_in_dim(a, start, size) for a in arrays))

    sums, outputs = lax.scan(body, sums, jnp.arange(0, len(arrays[0]), size))
    return sums, None if outputs is None else outputs.reshape(-1, *outputs.shape[2:])


def _product(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    """Multiplies two matrices, summing over the given axes."""
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())))


# ---- 1x1 kernels


def _pointwise(images: Array, kernel: Array, *, strides: tuple[int, int]) -> Array:
    return jnp.matmul(images[:, :: strides[0], :: strides[1]], kernel[0, 0])


# ---- 3x3 kernels, stride 1, padding 1: Winograd

_TILE = 4  # outputs on a side of a tile; six inputs
# The transforms evaluate polynomials at these points and at infinity. The usual 0, +-1, +-2 lose three
# times the accuracy.
_POINTS = math.sqrt(0.5) * np.array([0, 1, -1, 2, -2])


def _winograd_matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


_A, _B, _G = _winograd_matrices()


@jax.custom_vjp
def _winograd(images: Array, kernel: Array) -> Array:
    channels, features = kernel.shape[2:]
    if min(channels, features) < 64:  # the transforms would take longer than the products
        return lax.conv_general_dilated(images, kernel, (1, 1), 'SAME', dimension_numbers=_LAYOUT)
    kernels = _transform_kernel(kernel)

    def step(_, chunk):
        products = jax.tree.map(lambda x, u: _product(x, u, 1, 0), _tiles(_B, chunk, 1), kernels)
        return None, _images(_A, products, _interleave, (*chunk.shape[:3], features))

    return _over_chunks(step, _winograd_chunk(images, features), None, images)[1]


def _winograd_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    images, kernel = residuals
    kernels = _transform_kernel(kernel)

    def step(sums, chunk, gradient):
        inputs, gradients = _tiles(_B, chunk, 1), _tiles(_A, gradient, 0)
        sums = jax.tree.map(lambda s, x, g: s + _product(x, g, 0, 0), sums, inputs, gradients)
        products = jax.tree.map(lambda g, u: _product(g, u, 1, 1), gradients, kernels)
        return sums, _images(_B, products, _overlap, chunk.shape)

    zeros = jax.tree.map(jnp.zeros_like, kernels)
    size = _winograd_chunk(images, kernel.shape[3])
    sums, image_gradient = _over_chunks(step, size, zeros, images, gradient)
    sums = jnp.stack([jnp.stack(row) for row in sums])
    kernel_gradient = jnp.einsum('ai,bj,abck->ijck', _G, _G, sums, precision='highest')
    return image_gradient, kernel_gradient.astype(jnp.float32)


_winograd.defvjp(lambda images, kernel: (_winograd(images, kernel), (images, kernel)), _winograd_backward)


def _winograd_chunk(images: Array, features: int) -> int:
    batch, height, width, channels = images.shape
    tiles = _tile_count((height, width))
    return _chunk_size(batch, 4 * height * width * max(channels, features), -(-_MIN_TILES // tiles))


def _tile_count(size: Sequence[int]) -> int:
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
    images = _pad(images, tuple((border, border + -n % _TILE) for n in images.shape[1:3]))
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
    second = parts[1] + _shift(parts[5], 1, axis)
    last = parts[4] + _shift(parts[0], -1, axis)
    return _interleave([second, parts[2], parts[3], last], axis)


def _shift(array: Array, by: int, axis: int) -> Array:
    """Moves the entries by one place, filling with zeros."""
    low_high = [(0, 0, 0)] * array.ndim
    low_high[axis] = (by, -by, 0)
    return lax.pad(array, np.float32(0), low_high)


def _interleave(parts: Sequence[Array], axis: int) -> Array:
    """Lays arrays out along an axis as a0, b0, …, a1, b1, …"""
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return jnp.stack(parts, axis + 1).reshape(shape)


# ---- other kernels and strides


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _taps(strides: tuple[int, int], pads: _Pads, images: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(images, kernel, strides, pads, dimension_numbers=_LAYOUT)


def _taps_backward(strides, pads, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    images, kernel = residuals
    strided = strides != (1, 1)  # else XLA's input gradient, a convolution, is faster
    matrix = kernel.reshape(-1, kernel.shape[3])

    def step(total, chunk, gradient):
        patches, pull = jax.vjp(lambda x: _patches(x, kernel.shape[:2], strides, pads), chunk)
        gradients = gradient.reshape(-1, kernel.shape[3])
        total += _product(gradients, patches, 0, 0)
        return total, pull(_product(gradients, matrix, 1, 1))[0] if strided else None

    size, zeros = _chunk_size(len(images), 4 * images[0].size), jnp.zeros(matrix.shape[::-1], jnp.float32)
    total, image_gradient = _over_chunks(step, size, zeros, images, gradient)
    if not strided:
        convolve = functools.partial(lax.conv_general_dilated, dimension_numbers=_LAYOUT)
        transpose = jax.linear_transpose(lambda x: convolve(x, kernel, strides, pads), images)
        (image_gradient,) = transpose(gradient)
    return image_gradient, total.T.reshape(kernel.shape)


_taps.defvjp(lambda s, p, x, w: (_taps(s, p, x, w), (x, w)), _taps_backward)


def _patch_product(strides: tuple[int, int], pads: _Pads, images: Array, kernel: Array) -> Array:
    patches = _patches(images, kernel.shape[:2], strides, pads)
    out = _out_size(images.shape[1:3], kernel.shape[:2], strides, pads)
    return _product(patches, kernel.reshape(-1, kernel.shape[3]), 1, 0).reshape(-1, *out, kernel.shape[3])


def _patches(images: Array, kernel_size: Sequence[int], strides: tuple[int, int], pads: _Pads) -> Array:
    """Returns [pixels of the output, taps x channels]."""
    height, width = _out_size(images.shape[1:3], kernel_size, strides, pads)
    images = _pad(images, pads)
    taps = [
        images[:, i : i + strides[0] * height : strides[0], j : j + strides[1] * width : strides[1]]
        for i, j in itertools.product(*map(range, kernel_size))
    ]
    # A slice that ends beyond the image still has all its entries.
    return jnp.concatenate(taps, 3).reshape(-1, len(taps) * images.shape[3])
