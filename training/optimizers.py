"""Optimizers with PyTorch's semantics, from Optax's parts."""

from typing import Any

import jax
import optax
from ml_collections import ConfigDict

OPTIMIZERS = ('sgd',)


def create_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the optimizer that `config.optimizer` describes; `set_learning_rate` gives it its rate.

    Order as in PyTorch: gradients are clipped, L2 weight decay is added, then momentum (torch.optim.SGD).
    """
    parts = []
    if config.clip_value:
        parts.append(optax.clip(config.clip_value))
    if config.clip_norm:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay:
        mask = None if config.decay_norm_and_bias else _is_matrix
        parts.append(optax.add_decayed_weights(config.weight_decay, mask))
    parts.append(optax.trace(config.momentum, nesterov=config.nesterov))

    def with_rate(learning_rate):
        return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))

    return optax.inject_hyperparams(with_rate)(learning_rate=0.0)


def set_learning_rate(opt_state: Any, learning_rate: jax.Array) -> Any:
    """Returns `opt_state` with the rate float32[] that the next update applies."""
    return optax.tree_utils.tree_set(opt_state, learning_rate=learning_rate)


def _is_matrix(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)
