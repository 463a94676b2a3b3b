"""From `config.model` to a Flax module."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from jax_models import cpu_convolution
from jax_models.layers import ACTIVATIONS, CONVOLUTION_INITIALIZERS, BatchNorm
from jax_models.resnet import BasicBlock, Bottleneck, ResNet

MODELS = {
    'resnet18': partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock),
    'resnet34': partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock),
    'resnet50': partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck),
    'resnet101': partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck),
    'resnet152': partial(ResNet, stage_sizes=(3, 8, 36, 3), block=Bottleneck),
}


def model_names() -> tuple[str, ...]:
    """Returns the names that `config.model.name` may take."""
    return tuple(MODELS)


def create_model(
    config: ConfigDict, *, num_classes: int, dtype=jnp.float32, axis_name: str | None = None
) -> nn.Module:
    """Builds the module that `config` describes.

    Args:
      config: `config.model`, keys as in configs/default.py. `convolution` auto means xla here: what is
        best on the devices at hand is decided by whoever knows them.
      num_classes: number of logits.
      dtype: of the computation; parameters, statistics and logits are float32.
      axis_name: mapped axis over which batch statistics are shared (pmap), None under jit.

    Returns:
      A module; `module.apply(variables, images, train=False)` gives logits, float32[batch, num_classes],
      and with `method='features'` what the last layer sees.

    Raises:
      KeyError: `config.name`, `activation` or `initialization` is unknown.
    """
    conv = partial(
        nn.Conv,
        use_bias=False,
        dtype=dtype,
        kernel_init=CONVOLUTION_INITIALIZERS[config.initialization],
        conv_general_dilated=cpu_convolution.conv_general_dilated
        if config.convolution == 'winograd'
        else None,
    )
    return MODELS[config.name](
        num_classes=num_classes,
        width=config.width,
        stem=config.stem,
        conv=conv,
        norm=partial(BatchNorm, axis_name=axis_name),
        activation=ACTIVATIONS[config.activation],
        dropout=config.dropout,
        zero_init_last_norm=config.zero_init_last_norm,
        dtype=dtype,
    )
