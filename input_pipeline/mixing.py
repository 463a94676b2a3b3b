"""Mixing each image and its target with its neighbour's: mixup and CutMix.

Positions 2i and 2i + 1 of a batch are neighbours, and an odd last image is its own, so that both lie on the
same device wherever each device holds an even number. The share and the box are drawn once per step.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import betaincinv

from input_pipeline.erasing import in_boxes

_QUANTILES = 4096


def random_mix(
    images: jax.Array, targets: jax.Array, key: jax.Array, *, mixup_alpha: float, cutmix_alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes with shares from Beta(alpha, alpha) (torchvision's v2.MixUp and v2.CutMix).

    Args:
      images: float32[batch, height, width, channels].
      targets: float32[batch, classes].
      key: the step's; the same on all devices.
      mixup_alpha: 0 turns it off. Where both are on, each batch gets one of them, with probability 1/2.
      cutmix_alpha: likewise.
    """
    choice_key, mixup_key, cutmix_key, center_key = jax.random.split(key, 4)
    height, width = images.shape[1:3]
    shares = []
    if mixup_alpha:
        share = _random_share(mixup_key, mixup_alpha)
        shares.append(jnp.full((height, width), share))
    if cutmix_alpha:
        share = _random_share(cutmix_key, cutmix_alpha)
        center = jax.random.randint(center_key, (2,), 0, jnp.array([height, width]))
        shares.append(cutmix_shares(share, center, height, width))
    own = shares[0] if len(shares) == 1 else jnp.where(jax.random.bernoulli(choice_key), *shares)
    return mix(images, targets, own)


def _random_share(key: jax.Array, alpha: float) -> jax.Array:
    """Draws from Beta(alpha, alpha), by a table of its quantiles.

    jax.random.beta rejects until it has one: loops for whose ends the host of a GPU waits, in every step.
    """
    quantiles = np.float32(betaincinv(alpha, alpha, np.linspace(0, 1, _QUANTILES + 1)))
    place, index = jnp.modf(jax.random.uniform(key) * _QUANTILES)
    low, high = jnp.asarray(quantiles)[index.astype(jnp.int32) + jnp.arange(2)]
    return low + place * (high - low)


def cutmix_shares(share: jax.Array, center: jax.Array, height: int, width: int) -> jax.Array:
    """Returns 0 in a box about `center` (row, column) of 1 - `share` of the image, else 1.

    float32[height, width]. The box is cut off at the border.
    """
    shape = jnp.array([height, width])
    half = (0.5 * jnp.sqrt(1 - share) * shape).astype(jnp.int32)
    box = jnp.concatenate([center - half, 2 * half])
    return 1.0 - in_boxes(box[None], height, width)[0]


def mix(images: jax.Array, targets: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keeps the share `own` (float32[height, width]) of each pixel and takes the rest from the neighbour.

    Targets keep the mean share (Zhang et al. 2018, Yun et al. 2019).
    """
    share = own.mean()
    own = own[..., None]
    return (
        own * images + (1 - own) * _neighbors(images),
        share * targets + (1 - share) * _neighbors(targets),
    )


def _neighbors(array: jax.Array) -> jax.Array:
    count = len(array) // 2
    pairs = array[: 2 * count].reshape(count, 2, *array.shape[1:])[:, ::-1]
    return jnp.concatenate([pairs.reshape(2 * count, *array.shape[1:]), array[2 * count :]])
