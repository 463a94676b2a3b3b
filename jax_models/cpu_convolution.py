"""A drop-in for `lax.conv_general_dilated` that trains much faster on a CPU.

XLA's kernel gradients take five to ten times as long as its forward passes on a CPU, and its convolutions
inside loops run on one thread. Matrix products are fast in both, so here convolutions become matrix
products over chunks of the batch that stay in the cache:

- 3x3 kernels, stride 1, many channels: Winograd's convolution (winograd.py).
- 1x1 kernels: one product.
- images of a few pixels, or fewer than the kernel has taps: the taps side by side in one product. XLA takes
  the smaller of images and kernel for the kernel, which makes it up to 300 times slower.
- other strides: the same for the gradients alone.
- else, for the gradients alone: one product with rows of taps on one side, columns of them on the other.

That is for float32. `by_onednn` the last two are left to oneDNN (onednn.py), and Winograd's begins at 128
channels, below which oneDNN is faster. In bfloat16 all is left to it but 1x1 kernels, images with fewer
pixels than the kernel has taps, and outputs that are a pixel high or wide.
"""

import functools
import math
from collections.abc import Sequence

import jax
from jax import Array, lax
from jax import numpy as jnp

from jax_models import onednn, winograd
from jax_models.chunks import chunk_size, over_chunks, pad, product
from jax_models.taps import Pads, out_size, patches, rows_and_columns

# Below so many floating point operations XLA takes a millisecond or two, and compiles faster.
_MIN_FLOPS = 2e7
_MIN_FLOPS_WINOGRAD = 2e8
_LAYOUT = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


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
    *,
    by_onednn: bool = False,
) -> Array:
    """Convolves as `lax.conv_general_dilated` does; made for `nn.Conv(conv_general_dilated=…)`.

    Covers [batch, height, width, channels] with [kernel_height, kernel_width, channels, features], both of
    float32 or, `by_onednn`, of bfloat16; groups, dilations, other types and layouts, and small problems go to
    XLA. In float32 results differ from the exact ones by some 1e-6 of the largest. Where this module does the
    work, the first derivatives are reverse mode only; second derivatives are not supported.

    Args:
      by_onednn: whether what is compiled has onednn.COMPILER_OPTIONS; all others are lax's.
    """
    if rhs.dtype == jnp.bfloat16:
        # Lest oneDNN add something in float32, such as momentum, to the kernel's gradient, and round the sum.
        rhs = lax.optimization_barrier(rhs)
    covered = (jnp.float32, jnp.bfloat16) if by_onednn else (jnp.float32,)
    if lhs.ndim == 4 and rhs.ndim == 4 and lhs.dtype == rhs.dtype and lhs.dtype in covered:
        plain = (
            lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == _LAYOUT
            and feature_group_count == batch_group_count == 1
            and all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
            and precision is None
            and preferred_element_type in (None, lhs.dtype)
        )
        if plain:
            if isinstance(padding, str):
                padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
            pads = tuple((int(low), int(high)) for low, high in padding)
            convolve = _choose(lhs.shape, rhs.shape, lhs.dtype, tuple(window_strides), pads, by_onednn)
            if convolve is not None:
                return convolve(lhs, rhs)
    dilations, groups = (lhs_dilation, rhs_dilation), (feature_group_count, batch_group_count)
    options = (*dilations, dimension_numbers, *groups, precision, preferred_element_type)
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, *options)


def _choose(shape, kernel_shape, dtype, strides, pads, by_onednn):
    """Returns the function of images and kernel that is fastest for these shapes; None: XLA's."""
    batch, *size, channels = shape
    *kernel_size, _, features = kernel_shape
    out = out_size(size, kernel_size, strides, pads)
    flops = 2 * batch * math.prod(out) * math.prod(kernel_shape)
    if min(map(min, pads)) < 0:
        return None
    if by_onednn and min(out) == 1:  # oneDNN's results are wrong where they are high and narrow
        return functools.partial(_patch_product, strides, pads)
    if flops < _MIN_FLOPS:
        return None
    if kernel_size == [1, 1] and pads == ((0, 0), (0, 0)):
        return functools.partial(_pointwise, strides)
    few = math.prod(size) < math.prod(kernel_size)
    if dtype == jnp.bfloat16 and not few:
        return functools.partial(onednn.convolve, strides, pads)
    tiles = winograd.tile_count(out)
    if few or math.prod(out) <= 9 or batch * tiles < winograd.MIN_TILES:
        return functools.partial(_patch_product, strides, pads)
    if kernel_size == [3, 3] and strides == (1, 1) and pads == ((1, 1), (1, 1)):
        saved = 1 - 36 * tiles / (9 * math.prod(out))  # a tile takes 36 products, and 9 a pixel otherwise
        enough = 128 if by_onednn else 32
        if saved > 0.3 and min(channels, features) >= enough and flops >= _MIN_FLOPS_WINOGRAD:
            return winograd.convolve
    return functools.partial(onednn.convolve if by_onednn else _taps, strides, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pointwise(strides: tuple[int, int], images: Array, kernel: Array) -> Array:
    return jnp.matmul(images[:, :: strides[0], :: strides[1]], kernel[0, 0])


def _pointwise_backward(strides, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    # JAX's own would have XLA write the gradient a second time, transposed.
    images, kernel = residuals
    taken, pull = jax.vjp(lambda x: x[:, :: strides[0], :: strides[1]], images)
    (image_gradient,) = pull(product(gradient, kernel[0, 0], 3, 1))
    flat = (x.reshape(-1, x.shape[3]) for x in (taken, gradient))
    return image_gradient, product(*flat, 0, 0).reshape(kernel.shape)


_pointwise.defvjp(lambda s, x, w: (_pointwise(s, x, w), (x, w)), _pointwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _taps(strides: tuple[int, int], pads: Pads, images: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(images, kernel, strides, pads, dimension_numbers=_LAYOUT)


def _taps_backward(strides, pads, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    images, kernel = residuals
    if strides == (1, 1):
        return _both_gradients(pads, images, kernel, gradient)
    matrix = kernel.reshape(-1, kernel.shape[3])

    def step(total, images, gradient):
        taps, pull = jax.vjp(lambda x: patches(x, kernel.shape[:2], strides, pads), images)
        gradients = gradient.reshape(-1, kernel.shape[3])
        total += product(gradients, taps, 0, 0)
        return total, pull(product(gradients, matrix, 1, 1))[0]

    size, zeros = chunk_size(len(images), 4 * images[0].size), jnp.zeros(matrix.shape[::-1], jnp.float32)
    total, image_gradient = over_chunks(step, size, zeros, images, gradient)
    return image_gradient, total.T.reshape(kernel.shape)


_taps.defvjp(lambda s, p, x, w: (_taps(s, p, x, w), (x, w)), _taps_backward)


def _both_gradients(pads: Pads, images: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    """Returns those of images and kernel at stride 1; taps.rows_and_columns says how."""
    height, width, channels, features = kernel.shape
    top, bottom = pads[0]
    matrix = kernel.transpose(1, 3, 0, 2).reshape(width * features, height * channels)

    def step(total, images, gradient):
        rows, columns = rows_and_columns(images, gradient, kernel.shape[:2], pads)
        parts = jnp.matmul(columns, matrix).reshape(*columns.shape[:3], height, channels)
        shifted = (pad(parts[..., i, :], (i - top, height - 1 - i - bottom)) for i in range(height))
        rows, columns = (x.reshape(-1, x.shape[3]) for x in (rows, columns))
        return total + product(rows, columns, 0, 0), sum(shifted)

    pixels = math.prod(images.shape[1:3])
    size = chunk_size(len(images), 4 * pixels * sum(matrix.shape) // 6)
    total = jnp.zeros(matrix.shape[::-1], jnp.float32)
    total, image_gradient = over_chunks(step, size, total, images, gradient)
    return image_gradient, total.reshape(height, channels, width, features).transpose(0, 2, 1, 3)


def _patch_product(strides: tuple[int, int], pads: Pads, images: Array, kernel: Array) -> Array:
    taps = patches(images, kernel.shape[:2], strides, pads)
    out = out_size(images.shape[1:3], kernel.shape[:2], strides, pads)
    return product(taps, kernel.reshape(-1, kernel.shape[3]), 1, 0).reshape(-1, *out, kernel.shape[3])
