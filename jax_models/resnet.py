"""ResNets (He et al. 2015) as torchvision builds them, with its parameter names.

`layer1_0/conv1/kernel` here is `layer1.0.conv1.weight` there. One class serves every variant: depth and
block are arguments, convolution and norm come in as partials.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_models.layers import ModuleDef, max_pool


class Block(nn.Module):
    """A residual branch and a shortcut, added and activated.

    Attributes:
      channels: of the convolutions; the output has `expansion` times as many.
      stride: of the block.
      project: whether the shortcut needs a convolution to change shape.
      kernel_size: of the branch's spatial convolutions, odd.
      shortcut_kernel_size: of the shortcut's.
      conv, norm, activation: as in ResNet.
      gate: makes the module that scales the branch's channels before the sum (Hu et al. 2018), or None.
      dropout: probability, after the last activation.
      zero_init_last_norm: whether the branch starts as zero.
    """

    channels: int
    stride: int
    project: bool
    kernel_size: int
    shortcut_kernel_size: int
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable
    gate: ModuleDef | None
    dropout: float
    zero_init_last_norm: bool

    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.branch(x, train=train)
        if self.gate is not None:
            y = self.gate(name='se')(y)
        if self.project:
            x = self.convolve(x, self.shortcut_kernel_size, 'downsample_0', self.stride, self.expansion)
            x = self.norm(name='downsample_1')(x, train=train)
        if x.shape != y.shape:  # would broadcast
            raise ValueError(f'a shortcut gives {x.shape[1:]} where its block gives {y.shape[1:]}')
        return nn.Dropout(self.dropout)(self.activation(y + x), deterministic=not train)

    def convolve(self, x, kernel_size: int, name: str, stride: int = 1, expansion: int = 1):
        padding = (kernel_size - 1) // 2  # halves even sizes for even kernels too
        size, strides = (kernel_size, kernel_size), (stride, stride)
        return self.conv(self.channels * expansion, size, strides=strides, padding=padding, name=name)(x)

    def last_norm(self, name: str) -> nn.Module:
        scale = nn.initializers.zeros if self.zero_init_last_norm else nn.initializers.ones
        return self.norm(scale_init=scale, name=name)


class BasicBlock(Block):
    """Two 3x3 convolutions (torchvision.models.resnet.BasicBlock)."""

    def branch(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.convolve(x, self.kernel_size, 'conv1', self.stride)
        y = self.activation(self.norm(name='bn1')(y, train=train))
        return self.last_norm('bn2')(self.convolve(y, self.kernel_size, 'conv2'), train=train)


class Bottleneck(Block):
    """1x1, 3x3 (which strides) and 1x1 convolutions (torchvision.models.resnet.Bottleneck)."""

    expansion = 4

    def branch(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.activation(self.norm(name='bn1')(self.convolve(x, 1, 'conv1'), train=train))
        y = self.convolve(y, self.kernel_size, 'conv2', self.stride)
        y = self.activation(self.norm(name='bn2')(y, train=train))
        return self.last_norm('bn3')(self.convolve(y, 1, 'conv3', expansion=self.expansion), train=train)


class ResNet(nn.Module):
    """A residual network for images of any size.

    Called with float32[batch, height, width, channels] it returns logits, float32[batch, num_classes];
    its method `features` returns the pooled ones, [batch, features] in the compute dtype.

    Attributes:
      stage_sizes: blocks per stage; the first keeps the resolution, each further one halves it.
      block: BasicBlock or Bottleneck.
      num_classes: number of logits.
      width: channels of the first stage; each further stage doubles them.
      stem: `cifar` (3x3, stride 1), `cifar_pool` (then 3x3 max pool, stride 2) or `imagenet` (7x7, stride
        2, then the pool).
      kernel_sizes: of each stage's spatial convolutions.
      shortcut_kernel_sizes: of each stage's projection shortcuts.
      head_sizes: units of the hidden layers between features and logits.
      conv: a partial of nn.Conv, called as conv(channels, kernel_size, strides=, padding=, name=).
      norm: a partial of BatchNorm, called as norm(name=)(x, train=).
      linear: a partial of Linear, called as linear(features).
      head: the same, or of CosineLinear, for the last layer, called as head(num_classes).
      activation: after each norm and hidden layer.
      stem_gate: makes a module that scales the stem's channels, or None.
      block_gate: the same for the branch of each block.
      dropout: probability, after each hidden layer of the head, or before its only one.
      block_dropout: probability, after each block.
      zero_init_last_norm: start every block as its shortcut (Goyal et al. 2017).
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    stage_sizes: Sequence[int]
    block: ModuleDef
    num_classes: int
    width: int
    stem: str
    kernel_sizes: Sequence[int]
    shortcut_kernel_sizes: Sequence[int]
    head_sizes: Sequence[int]
    conv: ModuleDef
    norm: ModuleDef
    linear: ModuleDef
    head: ModuleDef
    activation: Callable
    stem_gate: ModuleDef | None
    block_gate: ModuleDef | None
    dropout: float
    block_dropout: float
    zero_init_last_norm: bool
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        size, stride = {'cifar': (3, 1), 'cifar_pool': (3, 1), 'imagenet': (7, 2)}[self.stem]
        self.conv1 = self.conv(self.width, (size, size), strides=(stride, stride), padding=(size - 1) // 2)
        self.bn1 = self.norm()
        if self.stem_gate is not None:
            self.se = self.stem_gate()
        inputs = self.width
        for stage, size in enumerate(self.stage_sizes):
            channels = self.width * 2**stage
            blocks = []
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                block = self.block(
                    channels=channels,
                    stride=stride,
                    project=stride != 1 or inputs != channels * self.block.expansion,
                    kernel_size=self.kernel_sizes[stage],
                    shortcut_kernel_size=self.shortcut_kernel_sizes[stage],
                    conv=self.conv,
                    norm=self.norm,
                    activation=self.activation,
                    gate=self.block_gate,
                    dropout=self.block_dropout,
                    zero_init_last_norm=self.zero_init_last_norm,
                )
                blocks.append(block)
                inputs = channels * self.block.expansion
            setattr(self, f'layer{stage + 1}', blocks)
        self.drop = nn.Dropout(self.dropout)
        # A head of several layers counts its activations and dropouts too, as nn.Sequential does.
        self.head_names = [f'fc_{3 * index}' for index in range(len(self.head_sizes) + 1)]
        if not self.head_sizes:
            self.head_names = ['fc']
        *hidden_names, last_name = self.head_names
        for name, units in zip(hidden_names, self.head_sizes, strict=True):
            setattr(self, name, self.linear(units))
        setattr(self, last_name, self.head(self.num_classes))

    def features(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns what the head sees: [batch, width * 2**(stages - 1) * expansion]."""
        x = self.conv1(images.astype(self.dtype))
        x = self.activation(self.bn1(x, train=train))
        if self.stem_gate is not None:
            x = self.se(x)
        if self.stem != 'cifar':
            x = max_pool(x, 3, 2, padding=1)
        for stage in range(len(self.stage_sizes)):
            for block in getattr(self, f'layer{stage + 1}'):
                x = block(x, train=train)
        return x.mean((1, 2))

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = self.features(images, train=train)
        *hidden, last = (getattr(self, name) for name in self.head_names)
        for layer in hidden:
            x = self.drop(self.activation(layer(x)), deterministic=not train)
        if not hidden:
            x = self.drop(x, deterministic=not train)
        return last(x)
