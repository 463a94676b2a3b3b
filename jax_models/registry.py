"""From `config.model` to a Flax module."""

import dataclasses
import importlib
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from jax_models import cpu_convolution
from jax_models.cnn5 import CNN5
from jax_models.layers import ACTIVATIONS, INITIALIZERS, BatchNorm, CosineLinear, Linear
from jax_models.resnet import BasicBlock, Bottleneck, ResNet
from jax_models.simple_cnn import SimpleCNN
from jax_models.squeeze_excitation import SqueezeExcitation

# Flax modules by the names that `config.model.name` may take. Of what `create_model` has to give, such as
# `num_classes`, `width` and `conv`, each gets what it has fields for.
MODELS = {
    'simple_cnn': SimpleCNN,
    'cnn5': CNN5,
    'resnet': partial(ResNet, stage_sizes=(), block=BasicBlock),  # config.model.stage_sizes says which
    'resnet10': partial(ResNet, stage_sizes=(1, 1, 1, 1), block=BasicBlock),
    'resnet18': partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock),
    'resnet34': partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock),
    'resnet50': partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck),
    'resnet101': partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck),
    'resnet152': partial(ResNet, stage_sizes=(3, 8, 36, 3), block=Bottleneck),
}
_CONVOLUTIONS = {
    'auto': None,
    'xla': None,
    'winograd': cpu_convolution.conv_general_dilated,
    'onednn': partial(cpu_convolution.conv_general_dilated, by_onednn=True),
}


def find_model(name: str) -> Callable[..., nn.Module]:
    """Returns what makes the model: one of MODELS, or `Class` of a module of one's own for `module:Class`.

    Raises:
      KeyError: there is no such model.
      ImportError, AttributeError: the module cannot be imported, or has no such class.
    """
    module, colon, attribute = name.partition(':')
    return getattr(importlib.import_module(module), attribute) if colon else MODELS[name]


def stage_count(config: ConfigDict) -> int | None:
    """Returns how many stages `config.model` has, None for a model without stages."""
    return len(_stage_sizes(config)) if 'stage_sizes' in field_names(config.name) else None


def _stage_sizes(config: ConfigDict) -> tuple[int, ...]:
    """Returns those of the config or, where it has none, of the model; () where that has none either."""
    model = find_model(config.name)
    default = getattr(getattr(model, 'func', model), 'stage_sizes', ())
    return tuple(config.stage_sizes) or tuple(getattr(model, 'keywords', {}).get('stage_sizes', default))


def field_names(name: str) -> set[str]:
    """Returns the fields of a model: what `create_model` may give it."""
    model = find_model(name)
    return {field.name for field in dataclasses.fields(getattr(model, 'func', model))}


def create_model(
    config: ConfigDict,
    *,
    num_classes: int,
    dtype=jnp.float32,
    axis_name: str | None = None,
    batch_norm_groups: int = 1,
) -> nn.Module:
    """Builds the module that `config` describes.

    Args:
      config: `config.model`, keys as in configs/default.py. `convolution` auto means xla here: what is
        best on the devices at hand is decided by whoever knows them.
      num_classes: number of logits.
      dtype: of the computation; parameters, statistics and logits are float32.
      axis_name: mapped axis over which batch statistics are shared (pmap), None under jit.
      batch_norm_groups: parts of a training batch that batch norm treats apart (layers.BatchNorm).

    Returns:
      A module; `module.apply(variables, images, train=False)` gives logits, float32[batch, num_classes],
      and with `method='features'` what its head sees.

    Raises:
      KeyError: `config.name`, `activation`, `initialization`, `head`, `se` or `convolution` is unknown;
        `stem` when the module is initialised.
    """
    conv_init, linear_init = INITIALIZERS[config.initialization]
    conv = partial(
        nn.Conv,
        use_bias=False,
        dtype=dtype,
        kernel_init=conv_init,
        conv_general_dilated=_CONVOLUTIONS[config.convolution],
    )
    linear = partial(Linear, dtype=dtype, kernel_init=linear_init)
    norm = partial(BatchNorm, axis_name=axis_name, groups=batch_norm_groups)
    cosine = partial(CosineLinear, scale=config.cosine_scale, kernel_init=linear_init)
    gate = partial(SqueezeExcitation, conv=conv, reduction=config.se_reduction)
    stem_gate, block_gate = {'none': (None, None), 'stem': (gate, None), 'blocks': (None, gate)}[config.se]
    parts = {
        'num_classes': num_classes,
        'width': config.width,
        'conv': conv,
        'head': {'linear': linear, 'cosine': cosine}[config.head],
        'activation': ACTIVATIONS[config.activation],
        'dropout': config.dropout,
        'dtype': dtype,
        'norm': norm,
        'linear': linear,
        'hidden': config.hidden,
        'stem': config.stem,
        'head_sizes': tuple(config.head_sizes),
        'stem_gate': stem_gate,
        'block_gate': block_gate,
        'block_dropout': config.block_dropout,
        'zero_init_last_norm': config.zero_init_last_norm,
    }
    stages = stage_count(config)
    if stages is not None:
        parts['stage_sizes'] = _stage_sizes(config)
        parts['kernel_sizes'] = tuple(config.kernel_sizes) or (3,) * stages
        parts['shortcut_kernel_sizes'] = tuple(config.shortcut_kernel_sizes) or (1,) * stages
    fields = field_names(config.name)
    return find_model(config.name)(**{name: part for name, part in parts.items() if name in fields})
