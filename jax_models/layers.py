"""Layers and initialisations with PyTorch's semantics where Flax's defaults differ."""

from collections.abc import Callable
from functools import partial, reduce
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
# Kernels of (convolutions, linear layers) by name; biases are always PyTorch's.
INITIALIZERS: dict[str, tuple[Callable, Callable]] = {
    'pytorch': (_pytorch_kernel, _pytorch_kernel),
    'torchvision': (nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'), _pytorch_kernel),
    'xavier_uniform': (nn.initializers.xavier_uniform(),) * 2,
    'xavier_normal': (nn.initializers.variance_scaling(2.0, 'fan_avg', 'normal'),) * 2,  # gain sqrt(2)
    'kaiming_normal': (nn.initializers.variance_scaling(2.0, 'fan_in', 'normal'),) * 2,
    'orthogonal': (nn.initializers.orthogonal(2.0**0.5),) * 2,
    'normal': (nn.initializers.normal(0.02),) * 2,
}


def pytorch_bias(fan_in: int) -> Callable:
    """Returns the initialiser of biases in torch.nn.Conv2d and Linear: uniform in +-1/sqrt(fan_in)."""
    bound = fan_in**-0.5

    def initialize(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize


def max_pool(x: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Takes the largest value of each window of [batch, height, width, channels] (torch.nn.MaxPool2d).

    The maximum of shifted images: its gradient takes a fifth of the time of `nn.max_pool`'s on a CPU. Equal
    values share the gradient, where PyTorch gives it to the first.
    """
    edges = (0, 0), (padding, padding), (padding, padding), (0, 0)
    dtype = x.dtype
    x = jnp.pad(x.astype(jnp.float32), edges, constant_values=-jnp.inf)
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    shifted = [
        x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return reduce(jnp.maximum, shifted).astype(dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (torch.nn.BatchNorm2d; Ioffe and Szegedy 2015).

    Unlike flax.linen.BatchNorm the running variance is the unbiased one, as in PyTorch. Statistics are
    computed and kept in float32 whatever the input's dtype, which is also the output's.

    Attributes:
      momentum: share of the old running statistics that is kept (PyTorch's momentum 0.1 is 0.9 here).
      epsilon: added to the variance.
      axis_name: the mapped axis over which to share statistics (pmap); None: this array's only. Under
        jit over a mesh the whole batch is one array, so they are shared anyway.
      groups: number of equal parts of the batch, each normalised by its own statistics; the running ones
        take their mean. With one part per device this is batch norm per device under jit.
      scale_init: initial scale, one or zero.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    groups: int = 1
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        features = x.shape[-1:]
        running_mean = self.variable('batch_stats', 'mean', jnp.zeros, features, jnp.float32)
        running_var = self.variable('batch_stats', 'var', jnp.ones, features, jnp.float32)
        scale = self.param('scale', self.scale_init, features, jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, features, jnp.float32)

        if not train:
            return _scale_and_shift(x, running_mean.value, running_var.value, scale, bias, self.epsilon)
        initializing = self.is_initializing()
        axis_name, groups = (None, 1) if initializing else (self.axis_name, self.groups)
        if groups == 1:
            y, mean, var = _normalize(x, scale, bias, self.epsilon, axis_name)
        else:
            parts = x.reshape(groups, -1, *x.shape[1:])
            each = jax.vmap(lambda part: _normalize(part, scale, bias, self.epsilon, axis_name))(parts)
            y, mean, var = each[0].reshape(x.shape), each[1].mean(0), each[2].mean(0)
        if not initializing:
            count = x.size // x.shape[-1] // groups * (jax.lax.axis_size(axis_name) if axis_name else 1)
            if count == 1:
                raise ValueError(f'{"/".join(self.path)} needs more than one value of each channel to train')
            keep, unbiased = self.momentum, var * (count / (count - 1))
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * unbiased
        return y


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalize(x, scale, bias, epsilon, axis_name):
    """Returns the normalised batch, its mean and its biased variance (both without gradients)."""
    axes = tuple(range(x.ndim - 1))
    x32 = x.astype(jnp.float32)
    mean, square = _pmean((x32.mean(axes), jnp.square(x32).mean(axes)), axis_name)
    var = jnp.maximum(square - jnp.square(mean), 0)
    return _scale_and_shift(x, mean, var, scale, bias, epsilon), mean, var


def _scale_and_shift(x, mean, var, scale, bias, epsilon):
    factor = scale * jax.lax.rsqrt(var + epsilon)
    return (x * factor + (bias - mean * factor)).astype(x.dtype)


def _normalize_forward(x, scale, bias, epsilon, axis_name):
    y, mean, var = _normalize(x, scale, bias, epsilon, axis_name)
    return (y, mean, var), (x, scale, mean, var)


def _normalize_backward(epsilon, axis_name, residuals, gradients):
    """Computes both sums in one pass and the input's gradient in a second, which is faster on a CPU.

    Summing `gradient * x` in place of `gradient * (x - mean)` needs no array of its own. The rounding error
    that adds where the mean is many deviations from zero is smaller than the variance's.
    """
    x, scale, mean, var = residuals
    gradient = gradients[0].astype(jnp.float32)
    axes, count, inverse = tuple(range(x.ndim - 1)), x.size // x.shape[-1], jax.lax.rsqrt(var + epsilon)
    bias_gradient = gradient.sum(axes)
    scale_gradient = ((gradient * x).sum(axes) - mean * bias_gradient) * inverse
    offset, slope = _pmean((bias_gradient / count, scale_gradient * inverse / count), axis_name)
    x_gradient = scale * inverse * (gradient - offset - slope * (x - mean))
    return x_gradient.astype(x.dtype), scale_gradient, bias_gradient


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _pmean(values, axis_name):
    return values if axis_name is None else jax.lax.pmean(values, axis_name)


class Linear(nn.Module):
    """A linear layer with PyTorch's default initialisation of kernel and bias (torch.nn.Linear).

    Multiplies in `dtype`, from float32 parameters, and returns float32; `kernel_init` replaces the kernel's
    initialisation.
    """

    features: int
    dtype: Any = jnp.float32
    kernel_init: Callable = _pytorch_kernel

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = x.shape[-1]
        # Inside nn.Dense the parameters would lie one level deeper than in torchvision's `fc.weight`.
        kernel = self.param('kernel', self.kernel_init, (inputs, self.features), jnp.float32)
        bias = self.param('bias', pytorch_bias(inputs), (self.features,), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return jnp.matmul(x, kernel, preferred_element_type=jnp.float32) + bias


class CosineLinear(Linear):
    """`scale` times the cosine of the angle between the features and each class's weights (Wang et al. 2018).

    Computes in float32, and has no bias. Margin losses are made for it (training/losses.py).
    """

    scale: float = 64.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        # On a GPU the default would be TF32.
        return self.scale * jnp.matmul(
            _unit(x.astype(jnp.float32), -1), _unit(kernel, 0), precision='highest'
        )


def _unit(vectors, axis):
    # Vectors of length 0 have no direction: they stay 0, and get a gradient of 0 rather than a huge one.
    square = jnp.square(vectors).sum(axis, keepdims=True)
    some = square > 1e-12
    return jnp.where(some, vectors * jax.lax.rsqrt(jnp.where(some, square, 1)), 0)
