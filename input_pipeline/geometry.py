"""Geometric augmentation: where each pixel of the result is read from.

Images are float32[batch, height, width, channels] in [0, 1].
"""

import jax
import jax.numpy as jnp

INTERPOLATIONS = ('nearest', 'bilinear')


def random_rotation(
    images: jax.Array, keys: jax.Array, *, degrees: float, interpolation: str, fill: float
) -> jax.Array:
    """Rotates each image by an angle uniform in [-degrees, degrees] (torchvision's RandomRotation)."""
    angles = jax.vmap(lambda key: jax.random.uniform(key, minval=-degrees, maxval=degrees))(keys)
    return rotate(images, angles, interpolation=interpolation, fill=fill)


def rotate(images: jax.Array, angles: jax.Array, *, interpolation: str, fill: float) -> jax.Array:
    """Rotates about the centre by `angles` in degrees, counterclockwise, float32[batch]."""
    radians = jnp.deg2rad(angles)
    cosine, sine, zero = jnp.cos(radians), jnp.sin(radians), jnp.zeros_like(radians)
    return warp(images, [[cosine, -sine, zero], [sine, cosine, zero]], interpolation=interpolation, fill=fill)


def warp(images: jax.Array, matrix: list[list[jax.Array]], *, interpolation: str, fill: float) -> jax.Array:
    """Applies an affine map to each image (torchvision.transforms.functional.affine on tensors).

    Args:
      matrix: two rows of three float32[batch], which take (x, y, 1) of a pixel of the result, counted from
        the centre, to the x and y that it is read from.
      interpolation: nearest or bilinear.
      fill: the value outside the image.
    """
    height, width = images.shape[1:3]
    x = jnp.arange(width) - (width - 1) / 2
    y = (jnp.arange(height) - (height - 1) / 2)[:, None]
    # Written out, since a matrix product on a GPU may round to fewer bits.
    source_x, source_y = (
        (row[0][:, None, None] * x + row[1][:, None, None] * y) + row[2][:, None, None] for row in matrix
    )
    rows, columns = source_y + (height - 1) / 2, source_x + (width - 1) / 2
    return sample(images, rows, columns, interpolation=interpolation, fill=fill)


def sample(
    images: jax.Array, rows: jax.Array, columns: jax.Array, *, interpolation: str, fill: float
) -> jax.Array:
    """Reads images at fractional positions (torch's grid_sample, as torchvision uses it with a fill value).

    `rows` and `columns` are float32[batch, height of the result, width of the result], in pixels.
    """
    if interpolation == 'nearest':
        pixels, inside = _read(images, jnp.round(rows), jnp.round(columns))
        return jnp.where(inside, pixels, fill)
    top, left = jnp.floor(rows), jnp.floor(columns)
    total = coverage = 0.0
    for row, down in ((top, rows - top), (top + 1, top + 1 - rows)):
        for column, right in ((left, columns - left), (left + 1, left + 1 - columns)):
            pixels, inside = _read(images, row, column)
            weight = ((1 - down) * (1 - right))[..., None] * inside
            total += weight * pixels
            coverage += weight
    # At the border torchvision multiplies by the part that lies inside the image a second time.
    return total * coverage + (1 - coverage) * fill


def _read(images: jax.Array, rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the pixels at whole positions, and whether these lie inside, bool[batch, …, 1]."""
    batch, height, width, channels = images.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = jnp.where(inside, rows * width + columns, 0).astype(jnp.int32)
    flat = images.reshape(batch, height * width, channels)
    pixels = jnp.take_along_axis(flat, index.reshape(batch, -1, 1), axis=1, mode='clip')
    return pixels.reshape(*rows.shape, channels), inside[..., None]
