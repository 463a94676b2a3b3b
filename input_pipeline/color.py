"""Colour augmentation as torchvision.transforms.functional defines it on float tensors.

Images are float32[batch, height, width, channels] in [0, 1], of one or three channels; factors are
float32[batch].
"""

import jax
import jax.numpy as jnp
import numpy as np

_LUMA = (0.2989, 0.587, 0.114)


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
    # sorting the images. A scan, since XLA would compute earlier turns anew for each channel of later ones.
    def take_turn(channels, turn):
        adjusted = [ADJUSTMENTS[name](channels, factors[:, index]) for index, name in enumerate(names)]
        chosen = [_spread(turn == index) for index in range(len(names))]
        return [jnp.select(chosen, candidates) for candidates in zip(*adjusted, strict=True)], None

    channels, _ = jax.lax.scan(take_turn, _split(images), order.T)
    return jnp.stack(channels, axis=-1)


def adjust(name: str, images: jax.Array, factors: jax.Array) -> jax.Array:
    """Applies one of ADJUSTMENTS to whole images."""
    return jnp.stack(ADJUSTMENTS[name](_split(images), factors), axis=-1)


def blend(image: jax.Array, other: jax.Array | float, factors: jax.Array) -> jax.Array:
    """Returns factor * image + (1 - factor) * other, cut off at 0 and 1; of whole images or one channel."""
    factors = factors.reshape(-1, *[1] * (image.ndim - 1))
    return (factors * image + (1 - factors) * other).clip(0, 1)


# The adjustments take and return a list of the channels, each float32[batch, height, width]: on a CPU sums
# over a last axis of 3 take six times as long.
def _brightness(channels, factors):
    """Blends with black: 0 gives black, 1 the image."""
    return [blend(channel, 0.0, factors) for channel in channels]


def _contrast(channels, factors):
    """Blends with each image's mean grey: 0 gives that grey, 1 the image."""
    mean = _gray([channel.mean((1, 2), keepdims=True) for channel in channels])
    return [blend(channel, mean, factors) for channel in channels]


def _saturation(channels, factors):
    """Blends with the image in grey: 0 gives that, 1 the image. Leaves images of one channel alone."""
    return channels if len(channels) == 1 else [blend(c, _gray(channels), factors) for c in channels]


def _hue(channels, factors):
    """Turns the hue by `factors` of a whole turn, in [-1/2, 1/2]. Leaves images of one channel alone."""
    if len(channels) == 1:
        return channels
    red, green, blue = channels
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    # The hue in sixths of a turn, from -1 to 5, times the chroma: a division would take most of the time.
    hue = jnp.where(
        value == red,
        green - blue,
        jnp.where(value == green, 2 * chroma + (blue - red), 4 * chroma + (red - green)),
    )

    # Each channel is the value less the chroma times how far the hue is from that channel's third.
    def turned(third):
        offset = (6 * factors + third + 3) % 6 - 3
        away = hue + chroma * _spread(offset)
        away = jnp.where(away > 3 * chroma, away - 6 * chroma, away)
        return value - (2 * chroma - jnp.abs(away)).clip(0, chroma)

    return [turned(third) for third in (3, 1, -1)]


ADJUSTMENTS = {'brightness': _brightness, 'contrast': _contrast, 'saturation': _saturation, 'hue': _hue}


def _split(images):
    return [images[..., index] for index in range(images.shape[-1])]


def _spread(values):
    return values[:, None, None]


def _gray(channels):
    """Returns the luma (ITU-R 601)."""
    return channels[0] if len(channels) == 1 else sum(w * c for w, c in zip(_LUMA, channels, strict=True))
