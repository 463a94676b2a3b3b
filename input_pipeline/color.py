"""Colour augmentation as torchvision.transforms.functional defines it on float tensors.

Images are float32[batch, height, width, channels] in [0, 1], of one or three channels; factors are
float32[batch].
"""

import jax
import jax.numpy as jnp
import numpy as np

_GRAY = np.array([0.2989, 0.587, 0.114], np.float32)


def random_jitter(
    images: jax.Array, keys: jax.Array, *, brightness: float, contrast: float, saturation: float, hue: float
) -> jax.Array:
    """Changes each image's colours by random factors, in a random order (torchvision's ColorJitter).

    The factors are uniform in [max(0, 1 - strength), 1 + strength], that of hue in [-hue, hue]. What has a
    strength of 0 is left out.
    """
    strengths = {'brightness': brightness, 'contrast': contrast, 'saturation': saturation, 'hue': hue}
    names = [name for name, strength in strengths.items() if strength]
    ranges = [(-hue, hue) if n == 'hue' else (max(0.0, 1 - strengths[n]), 1 + strengths[n]) for n in names]
    low, high = np.array(ranges, np.float32).T

    def draw(key):
        factor_key, order_key = jax.random.split(key)
        factors = jax.random.uniform(factor_key, (len(names),), minval=low, maxval=high)
        return factors, jax.random.permutation(order_key, len(names))

    factors, order = jax.vmap(draw)(keys)
    return jitter(images, factors, order, names=names)


def jitter(images: jax.Array, factors: jax.Array, order: jax.Array, *, names: list[str]) -> jax.Array:
    """Applies the adjustments of ADJUSTMENTS called `names` to each image in its own order.

    Args:
      factors: float32[batch, len(names)].
      order: int32[batch, len(names)], positions in `names`.
    """
    # Images of a batch are at different adjustments at a time: all are computed, which costs less than
    # sorting the images.
    for turn in order.T:
        adjusted = [ADJUSTMENTS[name](images, factors[:, index]) for index, name in enumerate(names)]
        images = jnp.select([(turn == i)[:, None, None, None] for i in range(len(names))], adjusted)
    return images


def blend(images: jax.Array, others: jax.Array | float, factors: jax.Array) -> jax.Array:
    """Returns factor * image + (1 - factor) * other, cut off at 0 and 1."""
    factors = factors[:, None, None, None]
    return (factors * images + (1 - factors) * others).clip(0, 1)


def grayscale(images: jax.Array) -> jax.Array:
    """Returns the luma (ITU-R 601), float32[batch, height, width, 1]."""
    return images if images.shape[-1] == 1 else (images * _GRAY).sum(-1, keepdims=True)


def adjust_brightness(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Blends with black: 0 gives black, 1 the image."""
    return blend(images, 0.0, factors)


def adjust_contrast(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Blends with each image's mean grey: 0 gives that grey, 1 the image."""
    return blend(images, grayscale(images).mean((1, 2, 3), keepdims=True), factors)


def adjust_saturation(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Blends with the image in grey: 0 gives that, 1 the image. Leaves images of one channel alone."""
    return images if images.shape[-1] == 1 else blend(images, grayscale(images), factors)


def adjust_hue(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Turns the hue by `factors` of a whole turn, in [-1/2, 1/2]. Leaves images of one channel alone."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = jnp.moveaxis(images, -1, 0)
    value = images.max(-1)
    chroma = value - images.min(-1)
    divisor = jnp.where(chroma == 0, 1, chroma)  # grey pixels have no hue, and need none
    sector = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sector += 6 * factors[:, None, None]
    # Each channel is the value less the chroma times how far the hue is from that channel's third.
    distance = (jnp.array([5.0, 3.0, 1.0]) + sector[..., None]) % 6
    fraction = jnp.minimum(distance, 4 - distance).clip(0, 1)
    return value[..., None] - chroma[..., None] * fraction


ADJUSTMENTS = {
    'brightness': adjust_brightness,
    'contrast': adjust_contrast,
    'saturation': adjust_saturation,
    'hue': adjust_hue,
}
