"""Losses: one value per example; the caller reduces.

`targets` are int32[batch] labels or float32[batch, classes] probabilities, as torch's CrossEntropyLoss takes.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

LOSSES = ('cross_entropy', 'focal')


def create_loss(config: ConfigDict) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns `loss(logits, targets)` as `config.loss` describes it."""
    if config.name == 'focal':
        return partial(focal, gamma=config.focal_gamma, label_smoothing=config.label_smoothing)
    return partial(cross_entropy, label_smoothing=config.label_smoothing)


def cross_entropy(logits: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the cross entropy in nats, float32[batch] (torch.nn.CrossEntropyLoss; Szegedy et al. 2016).

    Args:
      logits: float32[batch, classes].
      targets: labels or probabilities.
      label_smoothing: share of the target spread evenly over all classes, the true one included.
    """
    return optax.softmax_cross_entropy(logits, _smooth(targets, logits.shape[-1], label_smoothing))


def focal(logits: jax.Array, targets: jax.Array, *, gamma: float, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the sum over classes of target * (1 - p)^gamma * -log p, float32[batch] (Lin et al. 2017).

    For a single label that is the paper's multi-class focal loss without alpha; with gamma 0 it is the cross
    entropy. Arguments as `cross_entropy`'s.
    """
    log_p = jax.nn.log_softmax(logits)
    # The power of an exact 0 has no gradient where gamma is below 1.
    wrong = jnp.maximum(-jnp.expm1(log_p), 1e-8)
    return -(_smooth(targets, logits.shape[-1], label_smoothing) * wrong**gamma * log_p).sum(-1)


def _smooth(targets, classes, label_smoothing):
    probabilities = jax.nn.one_hot(targets, classes) if targets.ndim == 1 else targets
    return optax.smooth_labels(probabilities, label_smoothing)
