"""Optimizers with PyTorch's semantics, from Optax's parts."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

OPTIMIZERS = ('sgd', 'adam', 'adamw', 'rmsprop', 'muon')


def create_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the optimizer that `config.optimizer` describes; `set_hyperparameters` gives it its rate.

    Gradients are clipped first. Then as in PyTorch:
      sgd: torch.optim.SGD.
      adam: torch.optim.Adam, weight decay added to the gradient.
      adamw: torch.optim.AdamW, weight decay apart from the gradient and scaled by the rate.
      rmsprop: torch.optim.RMSprop, not centred.
      muon: as optax.contrib.muon (Jordan et al., 2024): convolution kernels, each as a matrix
        [height * width * in, out], by Muon; the rest by Adam at the same rate, with Nesterov momentum
        where Muon has it; weight decay as in adamw.
    Lookahead (`lookahead`) goes around any of them.
    """

    def with_hyperparameters(learning_rate, momentum):
        parts = [*_clipping(config), *_rule(config, momentum), optax.scale_by_learning_rate(learning_rate)]
        if not config.lookahead_steps:
            return optax.chain(*parts)
        return lookahead(optax.chain(*parts), config.lookahead_steps, config.lookahead_alpha)

    momentum = config.beta1 if config.name in ('adam', 'adamw') else config.momentum
    return optax.inject_hyperparams(with_hyperparameters)(learning_rate=0.0, momentum=float(momentum))


def set_hyperparameters(opt_state: Any, hyperparameters: Mapping[str, jax.Array]) -> Any:
    """Returns `opt_state` with what the next update applies.

    Args:
      opt_state: of `create_optimizer`.
      hyperparameters: float32[] each: `learning_rate` and, where it is cycled, `momentum`, which for
        adam and adamw is beta1.

    Raises:
      KeyError: another name.
    """
    return optax.tree_utils.tree_set(opt_state, **hyperparameters)


class LookaheadState(NamedTuple):
    """Attributes:
    slow: the slow weights, like the parameters.
    inner: of optax.lookahead: the inner optimizer's state and the steps since slow and fast met.
    """

    slow: Any
    inner: optax.LookaheadState


def lookahead(
    optimizer: optax.GradientTransformation, steps: int, alpha: float
) -> optax.GradientTransformation:
    """Wraps an optimizer so that every `steps` updates slow += alpha (fast - slow), then fast = slow.

    Zhang et al., 2019, https://arxiv.org/abs/1907.08610. The optimizer's moments are left as they are.
    optax.lookahead, but the parameters stay a plain tree: they are the fast weights, which gradients,
    evaluation and checkpoints use; every `steps` updates they equal the slow ones, but for rounding.
    """
    both = optax.lookahead(optimizer, steps, alpha)

    def init(params):
        # A copy, as a step donates slow and fast weights both.
        slow = jax.tree.map(jnp.copy, params)
        return LookaheadState(slow, both.init(optax.LookaheadParams(fast=params, slow=slow)))

    def update(gradients, state, params):
        weights = optax.LookaheadParams(fast=params, slow=state.slow)
        updates, inner = both.update(gradients, state.inner, weights)
        return updates.fast, LookaheadState(optax.apply_updates(state.slow, updates.slow), inner)

    return optax.GradientTransformation(init, update)


def _clipping(config):
    if config.clip_value:
        yield optax.clip(config.clip_value)
    if config.clip_norm:
        yield optax.clip_by_global_norm(config.clip_norm)


def _rule(config, momentum):
    """Returns what comes between clipping and the rate; `momentum` is float32[], beta1 for Adam."""
    mask = None if config.decay_norm_and_bias else _is_matrix
    decay = optax.add_decayed_weights(config.weight_decay, mask) if config.weight_decay else optax.identity()
    match config.name:
        case 'sgd':
            return decay, optax.trace(momentum, config.nesterov)
        case 'adam':
            return decay, optax.scale_by_adam(momentum, config.beta2, config.epsilon)
        case 'adamw':
            return optax.scale_by_adam(momentum, config.beta2, config.epsilon), decay
        case 'rmsprop':
            rms = optax.scale_by_rms(config.rmsprop_decay, config.epsilon, eps_in_sqrt=False)
            return decay, rms, optax.trace(momentum)
        case 'muon':
            muon = optax.contrib.scale_by_muon(
                beta=momentum,
                eps=config.epsilon,
                nesterov=config.nesterov,
                weight_dimension_numbers=_kernels_as_matrices,
            )
            # No rate and no sign yet: they come last, after the decay, which has a mask.
            adam = optax.adamw(
                -1.0, config.beta1, config.beta2, config.epsilon, weight_decay=0.0, nesterov=config.nesterov
            )
            rules = {'muon': optax.chain(_stacked(muon), optax.stateless(_scale_by_fans)), 'adam': adam}
            return optax.partition(rules, _muon_or_adam), decay


def _muon_or_adam(params):
    return jax.tree.map(lambda p: 'muon' if p.ndim == 4 else 'adam', params)


def _stacked(muon: optax.GradientTransformation) -> optax.GradientTransformation:
    """Has scale_by_muon take kernels of one shape as one array float32[n, height, width, in, out].

    A GPU then has a few large products to begin in place of many small ones.
    """

    def update(gradients, state, params=None):
        leaves, tree = jax.tree.flatten(gradients)
        by_shape = sorted(range(len(leaves)), key=lambda index: leaves[index].shape)

        def stack(kernels):
            kernels = jax.tree.leaves(kernels)
            ordered = [kernels[index] for index in by_shape]
            return [jnp.stack(list(group)) for _, group in groupby(ordered, key=jnp.shape)]

        def unstack(stacks):
            ordered = [kernel for stack in stacks for kernel in stack]
            return jax.tree.unflatten(tree, [ordered[by_shape.index(index)] for index in range(len(leaves))])

        updates, state = muon.update(stack(gradients), state._replace(mu=stack(state.mu)))
        return unstack(updates), state._replace(mu=unstack(state.mu))

    return optax.GradientTransformation(muon.init, update)


def _kernels_as_matrices(stacks):
    numbers = optax.contrib.MuonDimensionNumbers(reduction_axis=(1, 2, 3), output_axis=4)
    return jax.tree.map(lambda _: numbers, stacks)


def _scale_by_fans(updates, params):
    """What optax.contrib.muon does after scale_by_muon: larger steps where there are more outputs."""
    return jax.tree.map(lambda u: u * max(1, u.shape[-1] / u[..., 0].size) ** 0.5, updates)


def _is_matrix(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)
