"""Layers and initialisations with PyTorch's semantics where Flax's defaults differ."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

ModuleDef = Callable[..., Any]

ACTIVATIONS: dict[str, Callable] = {
    'relu': nn.relu,
    'gelu': partial(nn.gelu, approximate=False),  # PyTorch's default is the exact one
    'silu': nn.silu,
}

# torch.nn.Conv2d and Linear: Kaiming uniform with a = sqrt(5), which is uniform in +-1/sqrt(fan_in).
_pytorch_kernel = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
CONVOLUTION_INITIALIZERS: dict[str, Callable] = {
    'pytorch': _pytorch_kernel,
    'torchvision': nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
}


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (torch.nn.BatchNorm2d; Ioffe and Szegedy 2015).

    Unlike flax.linen.BatchNorm the running variance is the unbiased one, as in PyTorch. Statistics are
    computed and kept in float32 whatever the input's dtype, which is also the output's.

    Attributes:
      momentum: share of the old running statistics that is kept (PyTorch's momentum 0.1 is 0.9 here).
      epsilon: added to the variance.
      axis_name: the mapped axis over which to share statistics (pmap); None: this array's only. Under
        jit over a mesh the whole batch is one array, so they are shared anyway.
      scale_init: initial scale, one or zero.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        features = x.shape[-1:]
        running_mean = self.variable('batch_stats', 'mean', jnp.zeros, features, jnp.float32)
        running_var = self.variable('batch_stats', 'var', jnp.ones, features, jnp.float32)
        scale = self.param('scale', self.scale_init, features, jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, features, jnp.float32)

        if train:
            axes = tuple(range(x.ndim - 1))
            x32 = x.astype(jnp.float32)
            mean, square, count = x32.mean(axes), jnp.square(x32).mean(axes), x.size // x.shape[-1]
            if self.axis_name is not None and not self.is_initializing():
                mean, square = jax.lax.pmean((mean, square), self.axis_name)
                count *= jax.lax.axis_size(self.axis_name)
            var = jnp.maximum(square - jnp.square(mean), 0)
            if not self.is_initializing():
                keep, unbiased = self.momentum, var * (count / max(count - 1, 1))
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        else:
            mean, var = running_mean.value, running_var.value

        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return (x * factor + (bias - mean * factor)).astype(x.dtype)


class Linear(nn.Module):
    """A linear layer with PyTorch's default initialisation of kernel and bias (torch.nn.Linear).

    Computes in `dtype`, from float32 parameters.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bound = x.shape[-1] ** -0.5

        def bias_init(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        # Inside nn.Dense the parameters would lie one level deeper than in torchvision's `fc.weight`.
        kernel = self.param('kernel', _pytorch_kernel, (x.shape[-1], self.features), jnp.float32)
        bias = self.param('bias', bias_init, (self.features,), jnp.float32)
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)
