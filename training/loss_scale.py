"""A loss scale for float16, whose small gradients would otherwise vanish (Micikevicius et al. 2018).

The loss is multiplied by the scale and the gradients are divided by it. Where they overflow, the step is
skipped and the scale falls; after a while without that it grows.
"""

import flax
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict


@flax.struct.dataclass
class LossScale:
    """Attributes:
    value: float32[], what the loss is multiplied by.
    steps: int32[], steps without an overflow since the value last changed.
    """

    value: jax.Array
    steps: jax.Array


def create_loss_scale(config: ConfigDict) -> LossScale:
    """Returns the scale before the first step, from `config.loss_scale`."""
    return LossScale(jnp.float32(config.initial), jnp.int32(0))


def next_loss_scale(scale: LossScale, finite: jax.Array, config: ConfigDict) -> LossScale:
    """Returns the scale after a step whose gradients were all finite, bool[], or not (torch.amp.GradScaler).

    Unlike PyTorch's it does not grow beyond `config.max`.
    """
    steps = jnp.where(finite, scale.steps + 1, 0)
    grows = steps == config.growth_interval
    grown = jnp.where(grows, jnp.minimum(scale.value * config.growth_factor, config.max), scale.value)
    return LossScale(
        value=jnp.where(finite, grown, scale.value * config.backoff_factor),
        steps=jnp.where(grows, 0, steps),
    )


def all_finite(tree) -> jax.Array:
    """Returns whether no entry of any array is infinite or NaN, bool[]."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
