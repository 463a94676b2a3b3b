"""Losses: one value per example; the caller reduces."""

import jax
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the cross entropy in nats, float32[batch] (torch.nn.CrossEntropyLoss; Szegedy et al. 2016).

    Args:
      logits: float32[batch, classes].
      labels: int32[batch].
      label_smoothing: share of the target spread evenly over all classes, the true one included.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))
