"""Squeeze and excitation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_models.layers import ModuleDef, pytorch_bias


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate computed from all channels' means (Hu et al. 2018).

    Parameters are named as in torchvision.ops.SqueezeExcitation: two 1x1 convolutions with biases, a ReLU
    between them and a sigmoid after them.

    Attributes:
      conv: a partial of nn.Conv.
      reduction: the channels are squeezed to a `reduction`-th, at least one.
    """

    conv: ModuleDef
    reduction: int = 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        squeezed = max(channels // self.reduction, 1)
        gate = x.mean((1, 2), keepdims=True)
        gate = self._dense(squeezed, channels, 'fc1')(gate)
        gate = nn.sigmoid(self._dense(channels, squeezed, 'fc2')(nn.relu(gate)))
        # In float32, so that the gate's gradient is summed over all pixels in it.
        return (x.astype(jnp.float32) * gate).astype(x.dtype)

    def _dense(self, features: int, inputs: int, name: str) -> nn.Module:
        return self.conv(features, (1, 1), use_bias=True, bias_init=pytorch_bias(inputs), name=name)
