"""Losses: one value per example; the caller reduces.

`targets` are int32[batch] labels or float32[batch, classes] probabilities, as torch's CrossEntropyLoss takes.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

MARGIN_LOSSES = ('arcface', 'cosface')
LOSSES = ('cross_entropy', 'focal', *MARGIN_LOSSES)


def create_loss(config: ConfigDict, *, cosine_scale: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns `loss(logits, targets)` as `config.loss` describes it.

    `cosine_scale` is that of the model's cosine head, which the losses with a margin need.
    """
    if config.name in MARGIN_LOSSES:
        loss = arcface if config.name == 'arcface' else cosface
        return partial(loss, margin=config.margin, scale=cosine_scale, label_smoothing=config.label_smoothing)
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


def arcface(
    logits: jax.Array, labels: jax.Array, *, margin: float, scale: float, label_smoothing: float = 0.0
) -> jax.Array:
    """Returns the cross entropy with `margin` radians added to the angle of the true class, float32[batch].

    Deng et al. 2019 (https://arxiv.org/abs/1801.07698). Where the angle would exceed pi, the cosine falls on
    in a straight line, as in the authors' code.

    Args:
      logits: `scale` times cosines, float32[batch, classes].
      labels: int32[batch].
      margin: at least 0, below pi.
      label_smoothing: as `cross_entropy`'s.
    """
    cosine = _true_class(logits, labels) / scale
    # Its gradient is infinite at 0.
    sine = jnp.sqrt(jnp.maximum(1 - jnp.square(cosine), 1e-7))
    moved = jnp.where(
        cosine > -math.cos(margin),
        cosine * math.cos(margin) - sine * math.sin(margin),
        cosine - margin * math.sin(margin),
    )
    return _with_true_class(logits, labels, scale * moved, label_smoothing)


def cosface(
    logits: jax.Array, labels: jax.Array, *, margin: float, scale: float, label_smoothing: float = 0.0
) -> jax.Array:
    """Returns the cross entropy with `margin` taken off the cosine of the true class, float32[batch].

    Wang et al. 2018 (https://arxiv.org/abs/1801.09414). Arguments as `arcface`'s.
    """
    return _with_true_class(logits, labels, _true_class(logits, labels) - scale * margin, label_smoothing)


def _true_class(logits, labels):
    return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def _with_true_class(logits, labels, values, label_smoothing):
    own = jnp.arange(logits.shape[1]) == labels[:, None]
    return cross_entropy(jnp.where(own, values[:, None], logits), labels, label_smoothing=label_smoothing)


def _smooth(targets, classes, label_smoothing):
    probabilities = jax.nn.one_hot(targets, classes) if targets.ndim == 1 else targets
    return optax.smooth_labels(probabilities, label_smoothing)
