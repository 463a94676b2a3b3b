"""A drop-in for `lax.conv_general_dilated` that trains much faster on a CPU.

XLA's kernel gradients take five to ten times as long as its forward passes on a CPU, and its convolutions
inside loops run on one thread. Matrix products are fast in both, so here convolutions become matrix
products over chunks of the batch that stay in the cache:

- 3x3 kernels, stride 1, many channels: Winograd's convolution (winograd.py).
- 1x1 kernels: one product.
- images of a few pixels: the taps of the kernel side by side in one product; XLA's forward pass is up to 25
  times slower at 2x2 pixels.
- other strides: the same for the gradients alone.
- else, for the gradients alone: one product with rows of taps on one side, columns of them on the other.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
from jax import Array, lax
from jax import numpy as jnp

from jax_models import winograd
from jax_models.chunks import chunk_size, over_chunks, pad, product

# Below so many floating point operations XLA takes a millisecond or two, and compiles faster.
_MIN_FLOPS = 2e7
_MIN_FLOPS_WINOGRAD = 2e8
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
    tiles = winograd.tile_count(out)
    if math.prod(out) <= 9 or batch * tiles < winograd.MIN_TILES:
        return functools.partial(_patch_product, strides, pads)
    if kernel_size == [3, 3] and strides == (1, 1) and pads == ((1, 1), (1, 1)):
        saved = 1 - 36 * tiles / (9 * math.prod(out))  # a tile takes 36 products, and 9 a pixel otherwise
        if saved > 0.3 and min(channels, features) >= 32 and flops >= _MIN_FLOPS_WINOGRAD:
            return winograd.convolve
    return functools.partial(_taps, strides, pads)


def _out_size(size, kernel_size, strides, pads) -> list[int]:
    return [(n + sum(p) - k) // s + 1 for n, k, s, p in zip(size, kernel_size, strides, pads, strict=True)]


def _pointwise(images: Array, kernel: Array, *, strides: tuple[int, int]) -> Array:
    return jnp.matmul(images[:, :: strides[0], :: strides[1]], kernel[0, 0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _taps(strides: tuple[int, int], pads: _Pads, images: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(images, kernel, strides, pads, dimension_numbers=_LAYOUT)


def _taps_backward(strides, pads, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    images, kernel = residuals
    if strides == (1, 1):
        return _rows_and_columns(pads, images, kernel, gradient)
    matrix = kernel.reshape(-1, kernel.shape[3])

    def step(total, images, gradient):
        patches, pull = jax.vjp(lambda x: _patches(x, kernel.shape[:2], strides, pads), images)
        gradients = gradient.reshape(-1, kernel.shape[3])
        total += product(gradients, patches, 0, 0)
        return total, pull(product(gradients, matrix, 1, 1))[0]

    size, zeros = chunk_size(len(images), 4 * images[0].size), jnp.zeros(matrix.shape[::-1], jnp.float32)
    total, image_gradient = over_chunks(step, size, zeros, images, gradient)
    return image_gradient, total.T.reshape(kernel.shape)


_taps.defvjp(lambda s, p, x, w: (_taps(s, p, x, w), (x, w)), _taps_backward)


def _rows_and_columns(pads: _Pads, images: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    """Returns both gradients at stride 1.

    Shifts the images along their height and the gradient along its width: in the product of the two each pair
    of shifts is a tap of the kernel. That is far less to write than all taps of the images side by side.
    """
    height, width, channels, features = kernel.shape
    (top, bottom), (left, right) = pads
    matrix = kernel.transpose(1, 3, 0, 2).reshape(width * features, height * channels)

    def step(total, images, gradient):
        rows = pad(images, (top, bottom))
        rows = [rows[:, i : i + gradient.shape[1]] for i in range(height)]
        columns = pad(gradient, (0, 0), (width - 1 - left, width - 1 - right))
        columns = [columns[:, :, j : j + images.shape[2]] for j in reversed(range(width))]
        rows, columns = (jnp.concatenate(shifted, 3) for shifted in (rows, columns))
        parts = jnp.matmul(columns, matrix).reshape(*columns.shape[:3], height, channels)
        shifted = (pad(parts[..., i, :], (i - top, height - 1 - i - bottom)) for i in range(height))
        rows, columns = (x.reshape(-1, x.shape[3]) for x in (rows, columns))
        return total + product(rows, columns, 0, 0), sum(shifted)

    pixels = math.prod(images.shape[1:3])
    size = chunk_size(len(images), 4 * pixels * sum(matrix.shape) // 6)
    total = jnp.zeros(matrix.shape[::-1], jnp.float32)
    total, image_gradient = over_chunks(step, size, total, images, gradient)
    return image_gradient, total.reshape(height, channels, width, features).transpose(0, 2, 1, 3)


def _patch_product(strides: tuple[int, int], pads: _Pads, images: Array, kernel: Array) -> Array:
    patches = _patches(images, kernel.shape[:2], strides, pads)
    out = _out_size(images.shape[1:3], kernel.shape[:2], strides, pads)
    return product(patches, kernel.reshape(-1, kernel.shape[3]), 1, 0).reshape(-1, *out, kernel.shape[3])


def _patches(images: Array, kernel_size: Sequence[int], strides: tuple[int, int], pads: _Pads) -> Array:
    """Returns [pixels of the output, taps x channels]."""
    height, width = _out_size(images.shape[1:3], kernel_size, strides, pads)
    images = pad(images, *pads)
    taps = [
        images[:, i : i + strides[0] * height : strides[0], j : j + strides[1] * width : strides[1]]
        for i, j in itertools.product(*map(range, kernel_size))
    ]
    # A slice that ends beyond the image still has all its entries.
    return jnp.concatenate(taps, 3).reshape(-1, len(taps) * images.shape[3])
