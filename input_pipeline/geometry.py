"""Geometric augmentation: where each pixel of the result is read from.

Images are float32[batch, height, width, channels] in [0, 1].
"""

import jax
import jax.numpy as jnp
import numpy as np

INTERPOLATIONS = ('nearest', 'bilinear')
# Whether x and y of the corners, clockwise from the upper left, are at the far side.
_FAR_SIDES = np.array([[False, False], [True, False], [True, True], [False, True]])


def random_resized_crop(images: jax.Array, keys: jax.Array, *, scale_min: float) -> jax.Array:
    """Crops a part of each image and enlarges it to the whole (torchvision's RandomResizedCrop, bilinear).

    Its share of the area is uniform from `scale_min` to 1, its width over height log-uniform from 3/4 to 4/3.
    """
    height, width = images.shape[1:3]
    middle = np.array([min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))])

    def draw(key):
        # As torchvision: the first of ten that fits, else the middle, as much of it as has such a ratio.
        scale_key, ratio_key, corner_key = jax.random.split(key, 3)
        areas = height * width * jax.random.uniform(scale_key, 10, minval=scale_min, maxval=1.0)
        limit = np.log(4 / 3)
        ratios = jnp.exp(jax.random.uniform(ratio_key, 10, minval=-limit, maxval=limit))
        sizes = jnp.round(jnp.sqrt(areas * jnp.stack([1 / ratios, ratios]))).astype(int)
        fits = (sizes <= np.array([[height], [width]])).all(0) & (sizes > 0).all(0)
        size = jnp.where(fits.any(), sizes[:, fits.argmax()], middle)
        room = np.array([height, width]) - size
        corner = jnp.where(fits.any(), jax.random.randint(corner_key, 2, 0, room + 1), room // 2)
        return jnp.concatenate([corner, size])

    return resized_crop(images, jax.vmap(draw)(keys))


def resized_crop(images: jax.Array, boxes: jax.Array) -> jax.Array:
    """Enlarges a part of each image to the whole (torchvision.transforms.functional.resized_crop, bilinear).

    `boxes` are int32[batch, 4]: top, left, height and width in pixels.
    """

    def weights(size, start, length):
        """Returns what each pixel of the result takes of each pixel, float32[batch, size, size]."""
        start, length = start[:, None], length[:, None]
        positions = (jnp.arange(size) + 0.5) * length / size - 0.5
        positions = start + jnp.clip(positions, 0, length - 1)
        return jnp.maximum(0, 1 - jnp.abs(positions[:, :, None] - jnp.arange(size)))

    rows = weights(images.shape[1], boxes[:, 0], boxes[:, 2])
    columns = weights(images.shape[2], boxes[:, 1], boxes[:, 3])
    images = jnp.einsum('bij,bjwc->biwc', rows, images, precision='highest')
    return jnp.einsum('bij,bhjc->bhic', columns, images, precision='highest')


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


def random_perspective(
    images: jax.Array, keys: jax.Array, *, distortion: float, probability: float
) -> jax.Array:
    """Views each image from another angle with a probability (torchvision's RandomPerspective, bilinear).

    `distortion`, below 1, is how far the corners may move inwards: 1 would be to the centre. What they leave
    is black.
    """
    width_height = np.array([images.shape[2], images.shape[1]])
    farthest = (distortion * (width_height // 2)).astype(int)

    def draw(key):
        apply_key, corner_key = jax.random.split(key)
        inwards = jax.random.randint(corner_key, (4, 2), 0, farthest + 1)
        return jnp.where(jax.random.bernoulli(apply_key, probability), inwards, 0)

    inwards = jax.vmap(draw)(keys)
    return perspective(images, jnp.where(_FAR_SIDES, width_height - 1 - inwards, inwards))


def perspective(images: jax.Array, corners: jax.Array) -> jax.Array:
    """Moves the corners of each image (torchvision.transforms.functional.perspective, bilinear).

    `corners` are int32[batch, 4, 2]: x and y, in pixels, to which the upper left, upper right, lower right
    and lower left pixels go. No three of them may lie on one line.
    """
    height, width = images.shape[1:3]
    x, y = jnp.moveaxis(corners.astype(jnp.float32), 0, -1).swapaxes(0, 1)
    # From the unit square to the corners (Heckbert 1989, Fundamentals of Texture Mapping, section 2.2.3):
    # x = (a u + b v + c) / (g u + h v + 1), y = (d u + e v + f) / (g u + h v + 1).
    sum_x, sum_y = x[0] - x[1] + x[2] - x[3], y[0] - y[1] + y[2] - y[3]
    right_x, right_y, below_x, below_y = x[1] - x[2], y[1] - y[2], x[3] - x[2], y[3] - y[2]
    determinant = right_x * below_y - below_x * right_y
    g = (sum_x * below_y - below_x * sum_y) / determinant
    h = (right_x * sum_y - sum_x * right_y) / determinant
    a, b, c = x[1] - x[0] + g * x[1], x[3] - x[0] + h * x[3], x[0]
    d, e, f = y[1] - y[0] + g * y[1], y[3] - y[0] + h * y[3], y[0]
    # Back, by the adjugate matrix. As in torchvision, which counts corners from the centres of pixels, but
    # the pixels of the result from their edges.
    x, y = jnp.arange(width) + 0.5, (jnp.arange(height) + 0.5)[:, None]
    u, v, scale = (
        (p[:, None, None] * x + q[:, None, None] * y) + r[:, None, None]
        for p, q, r in (
            (e - f * h, c * h - b, b * f - c * e),
            (f * g - d, a - c * g, c * d - a * f),
            (d * h - e * g, b * g - a * h, a * e - b * d),
        )
    )
    rows, columns = v / scale * (height - 1) - 0.5, u / scale * (width - 1) - 0.5
    return sample(images, rows, columns, interpolation='bilinear', fill=0.0)


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
