"""RandAugment and TrivialAugment, with torchvision's operations and magnitudes.

Images are float32[batch, height, width, channels] in [0, 1], of one or three channels. Each gets one of
OPERATIONS at a time: all are computed and one is taken, but for the geometric ones, which share one warp.
"""

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline import color
from input_pipeline.geometry import warp

# Those whose magnitude is negative half of the time.
SIGNED = ('shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate')
SIGNED += ('brightness', 'color', 'contrast', 'sharpness')
OPERATIONS = ('identity', *SIGNED, 'posterize', 'solarize', 'autocontrast', 'equalize')
BINS = 31  # of magnitudes


def rand_augment(images: jax.Array, keys: jax.Array, *, operations: int, magnitude: int) -> jax.Array:
    """Applies `operations` of one magnitude, 0 to 30 (torchvision's RandAugment; Cubuk et al. 2020)."""
    height, width = images.shape[1:3]
    table = magnitudes(height, width, wide=False)[:, magnitude]
    return _apply_random(images, keys, table[:, None], operations)


def trivial_augment(images: jax.Array, keys: jax.Array) -> jax.Array:
    """Applies one of any magnitude (torchvision's TrivialAugmentWide; Müller and Hutter 2021)."""
    height, width = images.shape[1:3]
    return _apply_random(images, keys, magnitudes(height, width, wide=True), 1)


def _apply_random(images, keys, table, count):
    """Applies `count` operations to each image, with magnitudes drawn from a row each of `table`."""

    def draw(key):
        operation_key, bin_key, sign_key = jax.random.split(key, 3)
        operation = jax.random.randint(operation_key, (count,), 0, len(OPERATIONS))
        magnitude = jnp.asarray(table)[operation, jax.random.randint(bin_key, (count,), 0, table.shape[1])]
        signed = jnp.array([name in SIGNED for name in OPERATIONS])[operation]
        negative = signed & jax.random.bernoulli(sign_key, shape=(count,))
        return operation, jnp.where(negative, -magnitude, magnitude)

    chosen, strengths = jax.vmap(draw)(keys)
    for operation, magnitude in zip(chosen.T, strengths.T, strict=True):
        images = apply(images, operation, magnitude)
    return images


def magnitudes(height: int, width: int, *, wide: bool) -> np.ndarray:
    """Returns the magnitudes of each of OPERATIONS, float32[operations, BINS], as `apply` takes them.

    `wide` are TrivialAugment's, else RandAugment's.
    """
    shear, angle, factor, bits = (0.99, 135, 0.99, 6) if wide else (0.3, 30, 0.9, 4)
    shift_x, shift_y = (32, 32) if wide else (150 / 331 * width, 150 / 331 * height)
    largest = dict(zip(SIGNED, (shear, shear, shift_x, shift_y, angle, *[factor] * 4), strict=True))
    levels = np.linspace(0, 1, BINS)
    rows = {name: value * levels for name, value in largest.items()}
    rows |= {'posterize': 8 - np.round(bits * levels), 'solarize': 255 * (1 - levels)}
    return np.array([rows.get(name, np.zeros(BINS)) for name in OPERATIONS], np.float32)


def apply(images: jax.Array, operation: jax.Array, magnitude: jax.Array) -> jax.Array:
    """Applies one operation to each image (torchvision/transforms/autoaugment.py, _apply_op).

    Args:
      operation: int32[batch], positions in OPERATIONS.
      magnitude: float32[batch]: shear in pixels a pixel, translation in pixels (cut to whole ones), rotation
        in degrees, bits kept by posterize, threshold of solarize from 0 to 255; for brightness, colour,
        contrast and sharpness what is added to the factor 1. The others take none.
    """
    results = {
        'brightness': color.adjust('brightness', images, 1 + magnitude),
        'color': color.adjust('saturation', images, 1 + magnitude),
        'contrast': color.adjust('contrast', images, 1 + magnitude),
        'sharpness': adjust_sharpness(images, 1 + magnitude),
        'posterize': posterize(images, magnitude),
        'solarize': solarize(images, magnitude / 255),
        'autocontrast': autocontrast(images),
        'equalize': equalize(images),
    }
    conditions = [(operation == OPERATIONS.index(name))[:, None, None, None] for name in results]
    return jnp.select(conditions, list(results.values()), _move(images, operation, magnitude))


def _move(images, operation, magnitude):
    """Applies the geometric operations, and leaves the images of other ones as they are."""
    height, width = images.shape[1:3]

    def amount(name):
        return jnp.where(operation == OPERATIONS.index(name), magnitude, 0)

    angle, shear_x, shear_y = jnp.deg2rad(amount('rotate')), amount('shear_x'), amount('shear_y')
    x, y = jnp.trunc(amount('translate_x')), jnp.trunc(amount('translate_y'))
    # Shears leave the upper left corner where it is.
    matrix = [
        [jnp.cos(angle), shear_x - jnp.sin(angle), shear_x * (height / 2) - x],
        [shear_y + jnp.sin(angle), jnp.cos(angle), shear_y * (width / 2) - y],
    ]
    return warp(images, matrix, interpolation='nearest', fill=0.0)


def adjust_sharpness(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Blends with a blurred image: 0 gives that (but for the border, which it leaves), 1 the image."""
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    blurred = (box + 4 * images[:, 1:-1, 1:-1]) / 13
    return color.blend(images, images.at[:, 1:-1, 1:-1].set(blurred), factors)


def posterize(images: jax.Array, bits: jax.Array) -> jax.Array:
    """Keeps the highest `bits` (float32[batch], 0 to 8) of pixels rounded to 8 bits."""
    unit = 2 ** (8 - bits.clip(0, 8))[:, None, None, None]
    return jnp.floor(jnp.round(images * 255) / unit) * unit / 255


def solarize(images: jax.Array, thresholds: jax.Array) -> jax.Array:
    """Inverts the pixels that reach `thresholds` (float32[batch])."""
    return jnp.where(images >= thresholds[:, None, None, None], 1 - images, images)


def autocontrast(images: jax.Array) -> jax.Array:
    """Stretches each channel to the whole range from 0 to 1, unless it is constant."""
    low, high = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
    flat = low == high
    return jnp.where(flat, images, (images - low) / jnp.where(flat, 1, high - low))


def equalize(images: jax.Array) -> jax.Array:
    """Spreads the values of each channel, rounded to 8 bits, evenly over the range."""
    batch, height, width, channels = images.shape
    size = height * width
    values = jnp.round(images * 255).astype(jnp.int32).reshape(batch, size, channels)
    empty = jnp.zeros((256, channels), jnp.int32)
    # Each image by itself: the rows of one scatter would be summed over all devices.
    histogram = jax.vmap(lambda values: empty.at[values, jnp.arange(channels)].add(1))(values)
    # What each new level holds: a 255th of the pixels, those of the brightest value aside.
    brightest = jnp.take_along_axis(histogram, values.max(1, keepdims=True), axis=1)
    step = (size - brightest) // 255
    below = jnp.cumsum(histogram, axis=1) - histogram
    table = ((below + step // 2) // jnp.maximum(step, 1)).clip(0, 255)
    equalized = jnp.take_along_axis(jnp.where(step == 0, jnp.arange(256)[:, None], table), values, axis=1)
    return equalized.reshape(images.shape) / 255
