"""Augmentation that erases a rectangle of each image.

Images are float32[batch, height, width, channels]. Boxes are int32[batch, 4]: top, left, height and width in
pixels, cut off at the border.
"""

import math

import jax
import jax.numpy as jnp

_TRIES = 10  # for a rectangle that is smaller than the image; then it stays whole


def random_cutout(images: jax.Array, keys: jax.Array, *, size: int) -> jax.Array:
    """Sets a square of `size` pixels to 0, its centre uniform over the image (DeVries and Taylor 2017)."""
    shape = jnp.array(images.shape[1:3])
    centers = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, shape))(keys)
    return erase(images, jnp.concatenate([centers - size // 2, jnp.full_like(centers, size)], axis=1))


def random_erasing(
    images: jax.Array,
    keys: jax.Array,
    *,
    probability: float,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> jax.Array:
    """Sets a rectangle to 0 with a probability (torchvision's RandomErasing; Zhong et al. 2017).

    Args:
      scale: range of the share of the image that it covers.
      ratio: range of height / width, drawn uniformly in its logarithm.
    """
    height, width = images.shape[1:3]

    def draw(key):
        apply_key, scale_key, ratio_key, corner_key = jax.random.split(key, 4)
        area = height * width * jax.random.uniform(scale_key, (_TRIES,), minval=scale[0], maxval=scale[1])
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = jnp.exp(jax.random.uniform(ratio_key, (_TRIES,), minval=low, maxval=high))
        sizes = jnp.round(jnp.sqrt(jnp.stack([area * aspect, area / aspect], axis=1))).astype(jnp.int32)
        fits = (sizes < jnp.array([height, width])).all(1)
        size = sizes[fits.argmax()]
        corner = jax.random.randint(corner_key, (2,), 0, jnp.array([height, width]) - size + 1)
        applies = jax.random.bernoulli(apply_key, probability) & fits.any()
        return jnp.where(applies, jnp.concatenate([corner, size]), 0)

    return erase(images, jax.vmap(draw)(keys))


def erase(images: jax.Array, boxes: jax.Array) -> jax.Array:
    """Sets the pixels of each image's box to 0 (torchvision.transforms.functional.erase)."""
    return jnp.where(in_boxes(boxes, *images.shape[1:3])[..., None], 0, images)


def in_boxes(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Returns which pixels lie in each box, bool[batch, height, width]."""
    top, left, box_height, box_width = boxes.T[:, :, None]
    rows, columns = jnp.arange(height), jnp.arange(width)
    inside_rows = (rows >= top) & (rows < top + box_height)
    inside_columns = (columns >= left) & (columns < left + box_width)
    return inside_rows[:, :, None] & inside_columns[:, None, :]
