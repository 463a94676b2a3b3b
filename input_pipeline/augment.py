"""Batched augmentation on the device, inside the training step.

Every function takes float32[batch, height, width, channels] and one key per image; an image's result depends
on its own key alone, so it is the same on any number of devices. (mixing.py is the exception.)
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from input_pipeline.auto_augment import rand_augment, trivial_augment
from input_pipeline.blur import random_blur
from input_pipeline.color import random_jitter
from input_pipeline.erasing import random_cutout, random_erasing
from input_pipeline.geometry import random_perspective, random_resized_crop, random_rotation
from input_pipeline.mixing import random_mix

Augment = Callable[[jax.Array, jax.Array], jax.Array]  # (images, keys) -> images
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

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


def create_augmentation(config: ConfigDict) -> tuple[Augment, Augment]:
    """Returns what `config.augmentation` has before normalisation and what after it, each in this order."""
    jitter = {
        'brightness': config.brightness,
        'contrast': config.contrast,
        'saturation': config.saturation,
        'hue': config.hue,
    }
    rotation = {
        'degrees': config.rotation,
        'interpolation': config.rotation_interpolation,
        'fill': config.rotation_fill,
    }
    perspective = {'distortion': config.perspective, 'probability': config.perspective_probability}
    blur = {'size': config.blur, 'sigma_min': config.blur_sigma_min, 'sigma_max': config.blur_sigma_max}
    rand = {'operations': config.randaugment_ops, 'magnitude': config.randaugment_magnitude}
    cutout, late = partial(random_cutout, size=config.cutout), config.cutout_after_normalization
    crop = (config.crop_padding, partial(random_crop, padding=config.crop_padding, mode=config.crop_mode))
    if config.crop_scale_min < 1:
        crop = (True, partial(random_resized_crop, scale_min=config.crop_scale_min))
    # Each step has a random stream of its own, so that switching one on or off, or adding one with the next
    # free number, leaves the others' numbers alike.
    before = [
        (0, *crop),
        (1, config.flip, random_flip),
        # Colours before what moves pixels, so that what is filled in keeps its value.
        (2, any(jitter.values()), partial(random_jitter, **jitter)),
        (3, config.rotation, partial(random_rotation, **rotation)),
        (4, config.perspective, partial(random_perspective, **perspective)),
        (5, config.blur, partial(random_blur, **blur)),
        (6, config.auto == 'randaugment', partial(rand_augment, **rand)),
        (7, config.auto == 'trivialaugment', trivial_augment),
        (8, config.cutout and not late, cutout),
    ]
    after = [
        (9, config.cutout and late, cutout),
        (10, config.erasing, partial(random_erasing, probability=config.erasing)),
    ]
    return _in_turn(before), _in_turn(after)


def _in_turn(steps: list[tuple[int, object, Augment]]) -> Augment:
    """Chains the functions that are on; of each its random stream, whether it is on, and the function."""
    functions = [_with_stream(function, stream) for stream, on, function in steps if on]

    def chain(images, keys):
        for function in functions:
            images = function(images, keys)
        return images

    def one_by_one(images, keys):
        def apply(images, index):
            return jax.lax.switch(index, functions, images, keys), None

        return jax.lax.scan(apply, images, jnp.arange(len(functions)))[0]

    if len(functions) < 2:
        return chain
    # On a CPU XLA would fuse the functions, and compute each pixel anew for every pixel that is made of it:
    # a perspective and a blur after it would take three times as long.
    return lambda images, keys: jax.lax.platform_dependent(images, keys, cpu=one_by_one, default=chain)


def _with_stream(function: Augment, stream: int) -> Augment:
    return lambda images, keys: function(images, jax.vmap(jax.random.fold_in, (0, None))(keys, stream))


def create_mixing(config: ConfigDict, num_classes: int) -> Mix | None:
    """Returns `mix(images, labels, key) -> images, targets` as `config.augmentation` has it, or None.

    `labels` are int32[batch], `targets` float32[batch, classes]; `key` is the step's.
    """
    if not (config.mixup_alpha or config.cutmix_alpha):
        return None
    alphas = {'mixup_alpha': config.mixup_alpha, 'cutmix_alpha': config.cutmix_alpha}
    return lambda images, labels, key: random_mix(images, jax.nn.one_hot(labels, num_classes), key, **alphas)
