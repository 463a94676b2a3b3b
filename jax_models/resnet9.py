"""ResNet-9, made for the fastest training on CIFAR-10 (Page 2018, "How to Train Your ResNet")."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_models.layers import ModuleDef, max_pool
from jax_models.resnet import BasicBlock


class ResNet9(nn.Module):
    """Four 3x3 convolutions, a 2x2 max pool in all but the first, a residual block after the second and last.

    Pools come before the norms (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU"), blocks are
    ResNet's, and the last stage has six widths in place of Page's eight, for less than five million
    parameters. Called with float32[batch, height, width, channels] of at least 8 pixels it returns logits,
    float32[batch, num_classes]; its method `features` returns each channel's maximum over the pixels,
    [batch, 6 * width] in the compute dtype.

    Attributes:
      num_classes: number of logits.
      width: channels of the first convolution.
      conv: a partial of nn.Conv, called as conv(channels, kernel_size, padding=, name=).
      norm: a partial of BatchNorm, called as norm(name=)(x, train=).
      head: a partial of Linear or CosineLinear, called as head(num_classes).
      activation: after each norm.
      block_gate: makes the module that scales the channels of a block's branch, or None.
      dropout: probability, before the linear layer.
      block_dropout: probability, after each block.
      zero_init_last_norm: start every block as its shortcut (Goyal et al. 2017).
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    num_classes: int
    width: int
    conv: ModuleDef
    norm: ModuleDef
    head: ModuleDef
    activation: Callable
    block_gate: ModuleDef | None
    dropout: float
    block_dropout: float
    zero_init_last_norm: bool
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.fc = self.head(self.num_classes)
        self.drop = nn.Dropout(self.dropout)

    @nn.compact
    def features(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns what the head sees: [batch, 6 * width]."""
        x = images.astype(self.dtype)
        for stage, multiple in enumerate((1, 2, 4, 6), start=1):
            channels = self.width * multiple
            x = self.conv(channels, (3, 3), padding=1, name=f'conv{stage}')(x)
            if stage > 1:
                x = max_pool(x, 2, 2)
            x = self.activation(self.norm(name=f'bn{stage}')(x, train=train))
            if stage in (2, 4):
                block = BasicBlock(
                    channels=channels,
                    stride=1,
                    project=False,
                    kernel_size=3,
                    shortcut_kernel_size=1,
                    conv=self.conv,
                    norm=self.norm,
                    activation=self.activation,
                    gate=self.block_gate,
                    dropout=self.block_dropout,
                    zero_init_last_norm=self.zero_init_last_norm,
                    name=f'block{stage}',
                )
                x = block(x, train=train)
        return x.max((1, 2))

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = self.drop(self.features(images, train=train), deterministic=not train)
        return self.fc(x)
