"""Convolutions by oneDNN, above all in bfloat16 on CPUs with instructions for it (Intel AMX, AVX-512 BF16).

XLA gives forward convolutions and matrix products to oneDNN where it is asked to (`COMPILER_OPTIONS`), which
in bfloat16 takes a tenth of the time of its own. Both gradients of a convolution are not among them as XLA
writes them, so here the images' is written as a forward convolution and the kernel's as matrix products over
chunks.
"""

import contextlib
import functools
import math
import warnings
from pathlib import Path

import jax
from jax import Array, lax
from jax import numpy as jnp

from jax_models.chunks import chunk_size, over_chunks, pad
from jax_models.taps import Pads, patches, rows_and_columns

# For jax.jit and `compile` of what holds such convolutions. Of YNNPACK's only the reductions are kept: its
# products in float32, such as Muon's, copy what is transposed, which takes a fifth of a step. XLA's default
# order of operations makes room for many to run at once: at width 16 memory in the cache is worth 6 % more.
COMPILER_OPTIONS = {
    'xla_cpu_experimental_onednn_custom_call': True,
    'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE',
    'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED',
}

_CPU = Path('/proc/cpuinfo')
_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


@functools.cache
def is_available(precision: str) -> bool:
    """Whether XLA gives convolutions to oneDNN here, as JAX 0.12 does on x86-64 and JAX 0.10 does not."""
    images, kernel = (jax.ShapeDtypeStruct(shape, precision) for shape in ((8, 8, 8, 8), (3, 3, 8, 8)))
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
        lowered = jax.jit(functools.partial(_convolve, (1, 1), ((1, 1), (1, 1)))).lower(images, kernel)
        try:
            with warnings.catch_warnings(action='ignore'):  # oneDNN's programs cannot be cached
                program = lowered.compile(compiler_options=COMPILER_OPTIONS)
        except jax.errors.JaxRuntimeError:
            return False  # no such option, in other versions
        return '__onednn$convolution' in program.as_text()


def is_fast() -> bool:
    """Whether it is available, on a CPU with units for bfloat16 (Intel's AMX).

    That multiplies bfloat16 several times as fast as float32, and float32 faster than Winograd's convolution.
    """
    with contextlib.suppress(OSError):  # not Linux
        return ' amx_bf16' in _CPU.read_text() and is_available('bfloat16')
    return False


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def convolve(strides: tuple[int, int], pads: Pads, images: Array, kernel: Array) -> Array:
    """Convolves [batch, height, width, channels] with [height, width, channels, features].

    Sums are in float32. In bfloat16 results are rounded once, and the kernel's gradient with each part of a
    chunk too. Wrong at larger strides where the output is a pixel wide and several high; cpu_convolution.py
    keeps such from here.
    """
    return _convolve(strides, pads, images, kernel)


def _convolve(strides, pads, images, kernel):
    return lax.conv_general_dilated(images, kernel, strides, pads, dimension_numbers=_LAYOUT)


def _backward(strides, pads, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    images, kernel = residuals
    height, width, channels, features = kernel.shape
    by_rows = strides == (1, 1) and height * channels + width * features < height * width * channels

    def step(total, images, gradient):
        if by_rows:
            both = rows_and_columns(images, gradient, kernel.shape[:2], pads)
        else:
            both = patches(images, kernel.shape[:2], strides, pads), gradient
        # Several products keep oneDNN's threads busier than one.
        count = math.gcd(len(images), 4)
        both = (x.reshape(count, -1, x.shape[-1]) for x in both)
        parts = lax.dot_general(*both, (((1,), (1,)), ((0,), (0,))))
        # Without the barrier oneDNN adds the total itself, rounded to bfloat16 each time.
        return total + lax.optimization_barrier(parts).astype(jnp.float32).sum(0), None

    rows, columns = (height * channels, width * features) if by_rows else (kernel[..., 0].size, features)
    pixels = images[0, :, :, 0].size if by_rows else gradient[0, :, :, 0].size
    # The larger of the two takes four times the bytes of a chunk's activations.
    size = chunk_size(len(images), pixels * max(rows, columns) * kernel.dtype.itemsize // 4)
    total, _ = over_chunks(step, size, jnp.zeros((rows, columns), jnp.float32), images, gradient)
    if by_rows:
        total = total.reshape(height, channels, width, features).transpose(0, 2, 1, 3)
    kernel_gradient = total.reshape(kernel.shape).astype(kernel.dtype)
    return _image_gradient(strides, pads, images, kernel, gradient), kernel_gradient


def _image_gradient(strides, pads, images, kernel, gradient):
    """Convolves the gradient with the kernel turned around, for all pixels of a block of strides at once.

    All pixels of a block depend on the same few pixels of the gradient, each through other taps. With zeros
    between the gradient's pixels there would be two or three times as many products.
    """
    size, (*_, channels, features) = images.shape[1:3], kernel.shape
    blocks = [-(-n // stride) for n, stride in zip(size, strides, strict=True)]
    sides = zip(blocks, gradient.shape[1:3], kernel.shape[:2], strides, pads, strict=True)
    around, edges = zip(*(_pads_of_blocks(*side) for side in sides), strict=True)
    kernel = jnp.pad(kernel, (*around, (0, 0), (0, 0)))
    window = [taps // stride for taps, stride in zip(kernel.shape[:2], strides, strict=True)]
    kernel = kernel.reshape(window[0], strides[0], window[1], strides[1], channels, features)
    kernel = kernel[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4).reshape(*window, features, -1)
    # What no image pixel takes part in is cut off here, since JAX 0.10 computes negative pads wrongly.
    gradient = pad(gradient, *((min(low, 0), min(high, 0)) for low, high in edges))
    result = _convolve((1, 1), [(max(low, 0), max(high, 0)) for low, high in edges], gradient, kernel)
    result = result.reshape(-1, *blocks, *strides, channels).transpose(0, 1, 3, 2, 4, 5)
    result = result.reshape(len(images), *(n * s for n, s in zip(blocks, strides, strict=True)), channels)
    return result[:, : size[0], : size[1]]


def _pads_of_blocks(blocks: int, pixels: int, taps: int, stride: int, pads: tuple[int, int]) -> Pads:
    """Returns along one side the pads that make the kernel one of whole blocks, and those of the gradient.

    Pixel p of block q goes through tap t to pixel q + (p + pad - t) / stride of the output, where that is
    whole: to those from q + first to q + last.
    """
    first, last = -((taps - 1 - pads[0]) // stride), (stride - 1 + pads[0]) // stride
    low = stride * last - pads[0]
    return (low, stride * (last - first + 1) - taps - low), (-first, blocks - pixels + last)


convolve.defvjp(lambda *arguments: (convolve(*arguments), arguments[2:]), _backward)
