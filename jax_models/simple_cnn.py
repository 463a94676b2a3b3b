"""A plain convolutional network, the first thing to compare a ResNet with."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_models.layers import ModuleDef, max_pool, pytorch_bias


class SimpleCNN(nn.Module):
    """Three 3x3 convolutions, each activated and max-pooled, then two linear layers.

    Called with float32[batch, height, width, channels], height and width at least 8, it returns logits,
    float32[batch, num_classes]; its method `features` returns the hidden layer's, [batch, hidden].

    Attributes:
      num_classes: number of logits.
      width: channels of the first convolution; each further one doubles them.
      hidden: units of the hidden linear layer.
      conv: a partial of nn.Conv, called as conv(channels, kernel_size, padding=, use_bias=, bias_init=).
      linear: a partial of Linear, called as linear(features).
      head: the same, or of CosineLinear, called as head(num_classes).
      activation: after each layer but the last.
      dropout: probability, before the last linear layer.
      dtype: of the computation; parameters and logits are float32.
    """

    num_classes: int
    width: int
    hidden: int
    conv: ModuleDef
    linear: ModuleDef
    head: ModuleDef
    activation: Callable
    dropout: float
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.fc1, self.fc2 = self.linear(self.hidden), self.head(self.num_classes)
        self.drop = nn.Dropout(self.dropout)

    @nn.compact
    def features(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the hidden layer's activations: [batch, hidden]."""
        x = images.astype(self.dtype)
        for index in range(3):
            conv = self.conv(
                self.width * 2**index,
                (3, 3),
                padding=1,
                use_bias=True,
                bias_init=pytorch_bias(9 * x.shape[-1]),
                name=f'conv{index + 1}',
            )
            x = max_pool(self.activation(conv(x)), 2, 2)
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # channels first, as PyTorch flattens
        return self.activation(self.fc1(x))

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = self.drop(self.features(images, train=train), deterministic=not train)
        return self.fc2(x)
