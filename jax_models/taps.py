"""Convolutions as matrix products: images shifted by the taps of a kernel, side by side."""

import itertools
from collections.abc import Sequence

from jax import Array
from jax import numpy as jnp

from jax_models.chunks import pad

Pads = tuple[tuple[int, int], tuple[int, int]]


def out_size(
    size: Sequence[int], kernel_size: Sequence[int], strides: Sequence[int], pads: Pads
) -> list[int]:
    """Returns height and width of a convolution's output."""
    return [(n + sum(p) - k) // s + 1 for n, k, s, p in zip(size, kernel_size, strides, pads, strict=True)]


def patches(images: Array, kernel_size: Sequence[int], strides: tuple[int, int], pads: Pads) -> Array:
    """Returns [pixels of the output, taps x channels]."""
    height, width = out_size(images.shape[1:3], kernel_size, strides, pads)
    images = pad(images, *pads)
    taps = [
        images[:, i : i + strides[0] * height : strides[0], j : j + strides[1] * width : strides[1]]
        for i, j in itertools.product(*map(range, kernel_size))
    ]
    # A slice that ends beyond the image still has all its entries.
    return jnp.concatenate(taps, 3).reshape(-1, len(taps) * images.shape[3])


def rows_and_columns(
    images: Array, gradient: Array, kernel_size: Sequence[int], pads: Pads
) -> tuple[Array, Array]:
    """Shifts the images along their height and the output's gradient along its width, at stride 1.

    In the product of the two, summed over all but the last axes, each pair of shifts is a tap of the kernel's
    gradient: [height x channels, width x features]. That is far less to write than all taps of the images.

    Returns:
      [batch, height of the output, width of the images, shifts x channels] and the like with features.
    """
    (height, width), ((top, bottom), (left, right)) = kernel_size, pads
    rows = pad(images, (top, bottom))
    rows = [rows[:, i : i + gradient.shape[1]] for i in range(height)]
    columns = pad(gradient, (0, 0), (width - 1 - left, width - 1 - right))
    columns = [columns[:, :, j : j + images.shape[2]] for j in reversed(range(width))]
    return jnp.concatenate(rows, 3), jnp.concatenate(columns, 3)
