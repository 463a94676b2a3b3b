"""The five-layer network that face-classification courses begin with."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_models.layers import ModuleDef


class CNN5(nn.Module):
    """Five convolutions, each normalised and activated, a global average pool and a linear layer.

    The first has a 7x7 kernel and stride 4, the others 3x3 and stride 2; none has a bias, which the norm
    would take away. Called with float32[batch, height, width, channels] it returns logits, float32[batch,
    num_classes]; its method `features` returns the pooled ones, [batch, 16 * width] in the compute dtype.

    Attributes:
      num_classes: number of logits.
      width: channels of the first convolution; each further one doubles them.
      conv: a partial of nn.Conv, called as conv(channels, kernel_size, strides=, padding=, name=).
      norm: a partial of BatchNorm, called as norm(name=)(x, train=).
      head: a partial of Linear or CosineLinear, called as head(num_classes).
      activation: after each norm.
      dropout: probability, before the linear layer.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    num_classes: int
    width: int
    conv: ModuleDef
    norm: ModuleDef
    head: ModuleDef
    activation: Callable
    dropout: float
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.fc = self.head(self.num_classes)
        self.drop = nn.Dropout(self.dropout)

    @nn.compact
    def features(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns what the head sees: [batch, 16 * width]."""
        x = images.astype(self.dtype)
        for index, (size, stride) in enumerate(((7, 4), (3, 2), (3, 2), (3, 2), (3, 2))):
            channels, kernel = self.width * 2**index, (size, size)
            conv = self.conv(
                channels, kernel, strides=(stride, stride), padding=size // 2, name=f'conv{index + 1}'
            )
            x = self.activation(self.norm(name=f'bn{index + 1}')(conv(x), train=train))
        return x.mean((1, 2))

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = self.drop(self.features(images, train=train), deterministic=not train)
        return self.fc(x)
