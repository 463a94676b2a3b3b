"""ResNets (He et al. 2015) as torchvision builds them, with its parameter names.

`layer1_0/conv1/kernel` here is `layer1.0.conv1.weight` there. One class serves every variant: depth and
block are arguments, convolution and norm come in as partials.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_models.layers import Linear, ModuleDef


def _strided(stride: int) -> dict:
    return {'strides': (stride, stride)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (torchvision.models.resnet.BasicBlock)."""

    channels: int
    stride: int
    project: bool  # whether the shortcut needs a 1x1 convolution to change shape
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable
    zero_init_last_norm: bool

    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        last_scale = nn.initializers.zeros if self.zero_init_last_norm else nn.initializers.ones
        y = self.conv(self.channels, (3, 3), padding=1, **_strided(self.stride), name='conv1')(x)
        y = self.activation(self.norm(name='bn1')(y, train=train))
        y = self.conv(self.channels, (3, 3), padding=1, name='conv2')(y)
        y = self.norm(scale_init=last_scale, name='bn2')(y, train=train)
        return self.activation(y + _shortcut(self, x, train=train))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which strides) and 1x1 convolutions and a shortcut (torchvision.models.resnet.Bottleneck)."""

    channels: int
    stride: int
    project: bool
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable
    zero_init_last_norm: bool

    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        last_scale = nn.initializers.zeros if self.zero_init_last_norm else nn.initializers.ones
        y = self.conv(self.channels, (1, 1), name='conv1')(x)
        y = self.activation(self.norm(name='bn1')(y, train=train))
        y = self.conv(self.channels, (3, 3), padding=1, **_strided(self.stride), name='conv2')(y)
        y = self.activation(self.norm(name='bn2')(y, train=train))
        y = self.conv(self.channels * self.expansion, (1, 1), name='conv3')(y)
        y = self.norm(scale_init=last_scale, name='bn3')(y, train=train)
        return self.activation(y + _shortcut(self, x, train=train))


def _shortcut(block, x: jax.Array, *, train: bool) -> jax.Array:
    if not block.project:
        return x
    channels = block.channels * block.expansion
    x = block.conv(channels, (1, 1), padding=0, **_strided(block.stride), name='downsample_0')(x)
    return block.norm(name='downsample_1')(x, train=train)


class ResNet(nn.Module):
    """A residual network for images of any size.

    Called with float32[batch, height, width, channels] it returns logits, float32[batch, num_classes];
    its method `features` returns what the last linear layer sees, [batch, features] in the compute dtype.

    Attributes:
      stage_sizes: blocks per stage; the first keeps the resolution, each further one halves it.
      block: BasicBlock or Bottleneck.
      num_classes: number of logits.
      width: channels of the first stage; each further stage doubles them.
      stem: `cifar` (3x3, stride 1) or `imagenet` (7x7, stride 2, then 3x3 max pool, stride 2).
      conv: a partial of nn.Conv, called as conv(channels, kernel_size, strides=, padding=, name=).
      norm: a partial of BatchNorm, called as norm(name=)(x, train=).
      activation: after each norm.
      dropout: probability, before the last linear layer.
      zero_init_last_norm: start every block as its shortcut (Goyal et al. 2017).
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    stage_sizes: Sequence[int]
    block: ModuleDef
    num_classes: int
    width: int
    stem: str
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable
    dropout: float
    zero_init_last_norm: bool
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        if self.stem == 'imagenet':
            self.conv1 = self.conv(self.width, (7, 7), strides=(2, 2), padding=3)
        else:
            self.conv1 = self.conv(self.width, (3, 3), padding=1)
        self.bn1 = self.norm()
        inputs = self.width
        for stage, size in enumerate(self.stage_sizes):
            channels = self.width * 2**stage
            blocks = []
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                project = stride != 1 or inputs != channels * self.block.expansion
                blocks.append(
                    self.block(
                        channels=channels,
                        stride=stride,
                        project=project,
                        conv=self.conv,
                        norm=self.norm,
                        activation=self.activation,
                        zero_init_last_norm=self.zero_init_last_norm,
                    )
                )
                inputs = channels * self.block.expansion
            setattr(self, f'layer{stage + 1}', blocks)
        self.drop = nn.Dropout(self.dropout)
        self.fc = Linear(self.num_classes, dtype=self.dtype)

    def features(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns what the last linear layer sees: [batch, width * 2**(stages - 1) * expansion]."""
        x = self.conv1(images.astype(self.dtype))
        x = self.activation(self.bn1(x, train=train))
        if self.stem == 'imagenet':
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage in range(len(self.stage_sizes)):
            for block in getattr(self, f'layer{stage + 1}'):
                x = block(x, train=train)
        return x.mean((1, 2))

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = self.features(images, train=train)
        return self.fc(self.drop(x, deterministic=not train)).astype(jnp.float32)
