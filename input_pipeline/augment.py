"""Batched augmentation on the device, inside the training step.

Every function takes float32[batch, height, width, channels] in [0, 1] and one key per image; an image's
result depends on its own key alone, so it is the same on any number of devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

CROP_MODES = {'zero': 'constant', 'reflect': 'reflect'}


def random_crop(images: jax.Array, keys: jax.Array, *, padding: int, mode: str) -> jax.Array:
    """Pads all sides by `padding` pixels and crops the original size at random (torchvision's RandomCrop).

    `mode` says what is added: `zero` or `reflect` (the border pixel is not repeated).
    """
    height, width = images.shape[1:3]
    edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, edges, mode=CROP_MODES[mode])
    corners = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1))(keys)
    rows = corners[:, :1] + jnp.arange(height)
    columns = corners[:, 1:] + jnp.arange(width)
    # Two gathers of whole rows and columns are several times faster than one dynamic slice an image.
    picked = jnp.take_along_axis(padded, rows[:, :, None, None], axis=1)
    return jnp.take_along_axis(picked, columns[:, None, :, None], axis=2)


def random_flip(images: jax.Array, keys: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability 1/2 (torchvision's RandomHorizontalFlip)."""
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def create_augmentation(config: ConfigDict) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns `augment(images, keys)` as `config.augmentation` describes it: crop, then flip."""
    functions = []
    if config.crop_padding:
        functions.append(
            lambda images, keys: random_crop(images, keys, padding=config.crop_padding, mode=config.crop_mode)
        )
    if config.flip:
        functions.append(random_flip)

    def augment(images, keys):
        for stream, function in enumerate(functions):
            images = function(images, jax.vmap(jax.random.fold_in, (0, None))(keys, stream))
        return images

    return augment
