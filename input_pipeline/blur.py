"""Blurring, on float32[batch, height, width, channels]."""

import jax
import jax.numpy as jnp


def random_blur(
    images: jax.Array, keys: jax.Array, *, size: int, sigma_min: float, sigma_max: float
) -> jax.Array:
    """Blurs each image with a sigma uniform in [sigma_min, sigma_max] (torchvision's GaussianBlur)."""
    sigmas = jax.vmap(lambda key: jax.random.uniform(key, minval=sigma_min, maxval=sigma_max))(keys)
    return gaussian_blur(images, sigmas, size=size)


def gaussian_blur(images: jax.Array, sigmas: jax.Array, *, size: int) -> jax.Array:
    """Convolves with a Gaussian, cut off and normalised (torchvision.transforms.functional.gaussian_blur).

    Args:
      images: reflected at the border, which is not repeated, so larger than size // 2.
      sigmas: standard deviations in pixels, float32[batch].
      size: of the kernel, odd.
    """
    offsets = jnp.arange(size) - size // 2
    weights = jnp.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdims=True)).T[..., None, None, None]
    # As sums of shifted images: a convolution would need a group for each image and channel.
    for axis in (1, 2):
        edges = [(size // 2, size // 2) if a == axis else (0, 0) for a in range(4)]
        padded, length = jnp.pad(images, edges, mode='reflect'), images.shape[axis]
        shifted = [jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(size)]
        images = sum(weight * image for weight, image in zip(weights, shifted, strict=True))
    return images
