"""What training changes: a plain pytree."""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from training.loss_scale import LossScale


@flax.struct.dataclass
class TrainState:
    """Attributes:
    step: int32[], optimizer steps taken.
    params: the model's parameters, float32.
    batch_stats: running statistics of batch norm, float32.
    opt_state: the optimizer's.
    ema: moving averages {'params', 'batch_stats'}, or None.
    loss_scale: with float16, else None.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    loss_scale: LossScale | None = None

    @property
    def variables(self) -> dict:
        """What evaluation uses: the moving averages where they are kept."""
        return self.ema or {'params': self.params, 'batch_stats': self.batch_stats}


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    *,
    seed: int,
    ema: bool,
    loss_scale: LossScale | None = None,
) -> TrainState:
    """Returns the state before the first step. Jit it: it is one compilation instead of many."""
    images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = model.init(jax.random.key(seed), images, train=False)
    params, batch_stats = variables['params'], variables.get('batch_stats', {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        ema={'params': params, 'batch_stats': batch_stats} if ema else None,
        loss_scale=loss_scale,
    )
