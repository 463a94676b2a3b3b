"""Holds optimizers against PyTorch's (make_golden.py), Lookahead against its paper, Muon against Optax."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from tests.parity import formula
from training.optimizers import create_optimizer, set_hyperparameters

GOLDEN = np.load(Path(__file__).parent / 'golden' / 'optimizers.npz')
KERNELS = {'conv1': (3, 3, 4, 6), 'conv2': (1, 1, 4, 8), 'conv3': (3, 3, 4, 6), 'dense': (6, 4), 'bias': (4,)}


def create(**keys):
    config = default.get_config().optimizer
    config.update({'momentum': 0.0, 'weight_decay': 0.0, **keys})
    return create_optimizer(config)


def train(optimizer, hyperparameters, shapes=formula.OPTIMIZER_SHAPES):
    """Returns all parameters, flat, after every tenth update; what each applies is given by its number."""
    params = {name: formula.draw(name, shape) for name, shape in shapes.items()}
    state, update, history = optimizer.init(params), jax.jit(optimizer.update), []
    for step in range(formula.OPTIMIZER_STEPS):
        gradients = {
            name: formula.draw(f'{name} {step}', array.shape) + formula.CURVATURE * array
            for name, array in params.items()
        }
        if values := hyperparameters(step):
            state = set_hyperparameters(state, {key: jnp.float32(value) for key, value in values.items()})
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        history.append(np.concatenate([params[name].ravel() for name in shapes]))
    return np.stack(history[formula.OPTIMIZER_KEPT_EVERY - 1 :: formula.OPTIMIZER_KEPT_EVERY])


def assert_close(ours, expected):
    assert np.linalg.norm(ours - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize('case', list(formula.OPTIMIZERS))
def test_updates_are_torchs(case):
    rate, keys = formula.OPTIMIZERS[case]

    def hyperparameters(step):
        cycled = {'momentum': formula.cycled_momentum(step)} if case.endswith('cycled') else {}
        return {'learning_rate': rate, **cycled}

    assert_close(train(create(**keys), hyperparameters), GOLDEN[case])


def adam_with_lookahead(rate, steps, alpha):
    """Returns what `train` does, from Lookahead's pseudo-code (Zhang et al., 2019) in float64."""
    shapes = formula.OPTIMIZER_SHAPES
    slow = np.concatenate([formula.draw(name, shape).ravel() for name, shape in shapes.items()]).astype(float)
    mean, square, history, step = 0.0, 0.0, [], 0
    while step < formula.OPTIMIZER_STEPS:
        fast = slow
        for _ in range(steps):
            noise = [formula.draw(f'{name} {step}', shape).ravel() for name, shape in shapes.items()]
            gradient = np.concatenate(noise) + formula.CURVATURE * fast
            step += 1
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            fast = fast - rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
            history.append(fast)
        slow = slow + alpha * (fast - slow)
        history[-1] = slow
    return np.stack(history[formula.OPTIMIZER_KEPT_EVERY - 1 :: formula.OPTIMIZER_KEPT_EVERY])


# Kept are the weights after every tenth step: with 5 after the slow ones moved, with 25 in between too.
@pytest.mark.parametrize(('steps', 'alpha'), [(5, 0.5), (25, 0.8)])
def test_lookahead_is_that_of_its_paper(steps, alpha):
    optimizer = create(name='adam', lookahead_steps=steps, lookahead_alpha=alpha)
    ours = train(optimizer, lambda step: {'learning_rate': 0.01})
    assert_close(ours, adam_with_lookahead(0.01, steps, alpha))


def test_muon_is_that_of_optax():
    numbers = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    dimensions = {name: numbers if len(shape) == 4 else None for name, shape in KERNELS.items()}
    theirs = optax.contrib.muon(
        0.02,
        beta=0.9,
        weight_decay=0.1,
        adam_weight_decay=0.1,
        muon_weight_dimension_numbers=dimensions,
    )
    ours = create(name='muon', momentum=0.9, nesterov=True, weight_decay=0.1)
    assert_close(
        train(ours, lambda step: {'learning_rate': 0.02}, KERNELS), train(theirs, lambda step: {}, KERNELS)
    )
