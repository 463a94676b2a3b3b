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
      images: no smaller than the kernel. They are reflected at the border, which is not repeated.
      sigmas: standard deviations in pixels, float32[batch].
      size: of the kernel, odd.
    """
    offsets = jnp.arange(size) - size // 2
    weights = jnp.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdims=True)).T[..., None, None, None]
    return _convolve(_convolve(images, weights, axis=1), weights, axis=2)


def _convolve(images, weights, *, axis):
    """Sums shifted images: a convolution would need a group for each image and channel."""
    radius, length = len(weights) // 2, images.shape[axis]

    def valid(part):
        count = part.shape[axis] - 2 * radius
        shifted = [jax.lax.slice_in_dim(part, i, i + count, axis=axis) for i in range(len(weights))]
        return sum(weight * image for weight, image in zip(weights, shifted, strict=True))

    def border(start, before, after):
        part = jax.lax.slice_in_dim(images, start, start + 2 * radius, axis=axis)
        edges = [(before, after) if a == axis else (0, 0) for a in range(images.ndim)]
        return valid(jnp.pad(part, edges, mode='reflect'))

    # Padding whole images takes three times as long on a CPU.
    ends = border(0, radius, 0), border(length - 2 * radius, 0, radius)
    return jnp.concatenate([ends[0], valid(images), ends[1]], axis=axis)
