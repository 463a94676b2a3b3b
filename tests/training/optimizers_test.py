from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from training.optimizers import OPTIMIZERS, create_optimizer, set_hyperparameters

PARAMS = {'conv': {'kernel': jnp.full((2, 2), 2.0)}, 'bn': {'scale': jnp.full(2, 2.0)}}


def updates(gradients, steps=1, rate=0.5, params=PARAMS, **keys):
    """What the last of some steps with the same gradients adds to the parameters."""
    config = default.get_config().optimizer
    config.update({'momentum': 0.0, 'weight_decay': 0.0, **keys})
    optimizer = create_optimizer(config)
    state = optimizer.init(params)
    for _ in range(steps):
        state = set_hyperparameters(state, {'learning_rate': jnp.float32(rate)})
        update, state = optimizer.update(gradients, state, params)
    return update


def ones(value=1.0):
    return {'conv': {'kernel': jnp.full((2, 2), value)}, 'bn': {'scale': jnp.full(2, value)}}


@pytest.mark.parametrize(('everywhere', 'norm_decay'), [(True, 0.2), (False, 0.0)])
def test_weight_decay_can_spare_norms_and_biases(everywhere, norm_decay):
    update = updates(ones(0.0), weight_decay=0.1, decay_norm_and_bias=everywhere)
    np.testing.assert_allclose(update['conv']['kernel'], -0.5 * 0.2)
    np.testing.assert_allclose(update['bn']['scale'], -0.5 * norm_decay)


@pytest.mark.parametrize('name', ['adamw', 'muon'])
@pytest.mark.parametrize(('everywhere', 'norm_decay'), [(True, 0.2), (False, 0.0)])
def test_decoupled_weight_decay_is_scaled_by_the_rate_alone(name, everywhere, norm_decay):
    update = updates(ones(0.0), name=name, weight_decay=0.1, decay_norm_and_bias=everywhere)
    np.testing.assert_allclose(update['conv']['kernel'], -0.5 * 0.2, rtol=1e-6)
    np.testing.assert_allclose(update['bn']['scale'], -0.5 * norm_decay, rtol=1e-6)


def test_muon_makes_the_updates_of_convolutions_orthogonal():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))
    update = updates({'kernel': kernel}, rate=1.0, params={'kernel': kernel}, name='muon')['kernel']
    # Five Newton-Schulz iterations bring the singular values near 1, not to it.
    assert jnp.abs(jnp.linalg.svd(update.reshape(18, 4), compute_uv=False) - 1).max() < 0.35


def test_cycled_momentum_is_set_and_other_names_are_refused():
    for name in OPTIMIZERS:
        config = default.get_config().optimizer
        config.name = name
        state = set_hyperparameters(create_optimizer(config).init(PARAMS), {'momentum': jnp.float32(0.3)})
        assert state.hyperparams['momentum'] == jnp.float32(0.3)
        with pytest.raises(KeyError):
            set_hyperparameters(state, {'rate': jnp.float32(0.3)})


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_every_optimizer_descends_inside_lookahead_with_donated_buffers(name):
    config = default.get_config().optimizer
    config.name, config.lookahead_steps = name, 3
    optimizer = create_optimizer(config)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = optimizer.update(params, state, params)  # the gradient of half the squared norm
        return optax.apply_updates(params, updates), state

    params = {'kernel': jnp.ones((3, 3, 1, 2)), 'bias': jnp.ones(2)}
    state = set_hyperparameters(optimizer.init(params), {'learning_rate': jnp.float32(0.02)})
    for _ in range(12):
        params, state = step(params, state)
    assert all(jnp.abs(array).max() < 0.99 for array in params.values())


def test_small_gradients_are_not_clipped():
    update = updates(ones(0.1), rate=1.0, clip_norm=5.0, clip_value=5.0)
    np.testing.assert_allclose(update['bn']['scale'], -0.1)
