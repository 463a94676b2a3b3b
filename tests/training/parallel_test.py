"""The same steps under jit and pmap, on one device and on eight, one and many in a dispatch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.loaders import evaluation_order, training_order
from training.experiment import create_experiment, resolve

STEPS = 5
TRAINED = {}


class Trained:
    """Five steps at a small rate, all of whose results are NumPy arrays."""

    def __init__(self, config, parallel, devices, many_steps):
        config.parallel, config.dataset.drop_last = parallel, True
        config.model.dropout = 0.0  # the one thing that depends on the number of devices
        config.optimizer.accumulation_steps = 2
        stride = STEPS if many_steps else 1
        devices = jax.devices()[:devices]
        experiment = create_experiment(resolve(config, devices), devices)
        execution, loader = experiment.execution, experiment.loaders['train']
        execution.many_steps = many_steps
        rows = training_order(loader.size, seed=0, epoch=0)[: STEPS * 64].reshape(STEPS, 64)
        order, data = execution.place_order(rows), execution.replicate(loader.arrays)
        rates = {'learning_rate': jnp.full(STEPS, 0.01, jnp.float32)}

        self.run = execution.compile_train(experiment.train_step())
        self.states, self.losses = [execution.replicate(experiment.create_state())], []
        for start in range(0, STEPS, stride):
            state, sums = self.run(self.states[-1], data, order, rates, start, start + stride)
            self.states.append(state)
            self.losses.append(execution.fetch(sums)['loss'][start : start + stride])
        self.losses = np.concatenate(self.losses)
        self.state = execution.fetch(state)

        self.evaluate = execution.compile_evaluate(experiment.predict_step())
        test = experiment.loaders['test']
        rows = evaluation_order(test.size, 64)  # of 360 images, the last row padded
        order, data = execution.place_order(rows), execution.replicate(test.arrays)
        parts = [
            execution.fetch(self.evaluate(state.variables, data, order, start, start + 1))
            for start in range(len(rows))
        ]
        self.sums = {name: sum(part[name].sum() for part in parts) for name in parts[0]}
        predict = execution.compile_predict(experiment.predict_step())
        self.logits = np.asarray(predict(state.variables, data, order, 0))


def assert_same_training(one, other):
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-4)
    for name in ('params', 'batch_stats', 'ema'):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
            getattr(one.state, name),
            getattr(other.state, name),
        )
    assert one.sums['count'] == other.sums['count'] == 360
    assert one.sums['loss'] == pytest.approx(other.sums['loss'], rel=1e-3)
    np.testing.assert_allclose(one.logits, other.logits, rtol=1e-2, atol=1e-3)


@pytest.fixture
def train(config):
    """Trained(config, …), made once for the same arguments."""

    def train(parallel, devices, many_steps=False):
        key = parallel, devices, many_steps
        if key not in TRAINED:
            TRAINED[key] = Trained(config.copy_and_resolve_references(), *key)
        return TRAINED[key]

    return train


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_eight_devices_equal_one(train, parallel):
    one, eight = train('jit', 1), train(parallel, 8)
    assert_same_training(one, eight)
    assert len(jax.tree.leaves(eight.states[-1])[0].sharding.device_set) == 8


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_many_steps_in_a_dispatch_equal_one_by_one(train, parallel):
    """As on a GPU."""
    assert_same_training(train('jit', 1), train(parallel, 1, many_steps=True))


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_states_are_donated(train, parallel):
    states = train(parallel, 8).states
    assert all(leaf.is_deleted() for state in states[:-1] for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(states[-1]))


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_a_copy_outlives_the_state_it_was_taken_from(config, parallel):
    config.parallel = parallel
    execution = create_experiment(config, jax.devices()[:2]).execution
    placed = execution.replicate({'a': np.arange(3.0)})
    copy = execution.unreplicate(placed)
    placed['a'].delete()
    np.testing.assert_array_equal(copy['a'], [0, 1, 2])
