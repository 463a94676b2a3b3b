"""The same steps under jit and pmap, on one, two and eight devices, one and many in a dispatch.

Losses agree within 1e-4 relative over five steps at a small rate, weights within 1e-3 (or 1e-4 absolute), and
losses within 2e-2 over twenty: float32 sums in another order.
"""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.loaders import evaluation_order, training_order
from jax_models import onednn
from training import ConfigError
from training.experiment import create_experiment
from training.parallel import SUMS, Execution, Sharded
from training.resolve import resolve

STEPS = 5


class Trained:
    """Five steps at a small rate with accumulation and EMA, all of whose results are NumPy arrays."""

    def __init__(self, config, parallel, devices, *, many_steps=False, sync=True):
        config.parallel, config.dataset.drop_last, config.batch_norm.sync = parallel, True, sync
        config.model.dropout = 0.0  # under pmap the masks depend on the number of devices
        config.optimizer.accumulation_steps = 2
        self.stride = STEPS if many_steps else 1
        devices = jax.devices()[:devices]
        self.experiment = create_experiment(resolve(config, devices), devices)
        execution = self.experiment.execution
        execution.many_steps = many_steps
        self.data = execution.place_data(self.experiment.loaders['train'].arrays)
        self.run = execution.compile_train(self.experiment.train_step())
        self.states = [execution.replicate(self.experiment.create_state())]
        self.losses = self.train(self.states, epoch=0)
        self.state = execution.fetch(self.states[-1])

    def train(self, states, *, epoch):
        """Runs five steps of an epoch from the last of `states`, adds theirs, and returns their losses."""
        execution, losses = self.experiment.execution, []
        rows = training_order(self.experiment.loaders['train'].size, seed=0, epoch=epoch)
        order = execution.place_order(rows[: STEPS * 64].reshape(STEPS, 64))
        rates = {'learning_rate': jnp.full(STEPS, 0.01, jnp.float32)}
        for start in range(0, STEPS, self.stride):
            stop = start + self.stride
            state, sums = self.run(states[-1], self.data, order, rates, start, stop)
            states.append(state)
            losses.append(execution.fetch(sums)['loss'][start:stop])
        return np.concatenate(losses)

    @functools.cached_property
    def twenty_losses(self):
        states = [self.experiment.execution.replicate(self.experiment.create_state())]
        return np.concatenate([self.train(states, epoch=epoch) for epoch in range(4)])

    @functools.cached_property
    def evaluated(self):
        """Sums over the test split, and logits of its first batch."""
        execution, test = self.experiment.execution, self.experiment.loaders['test']
        rows = evaluation_order(test.size, 64)  # of 360 images, the last row padded
        order, data = execution.place_order(rows), execution.replicate(test.arrays)
        variables = self.states[-1].variables
        run = execution.compile_evaluate(self.experiment.predict_step())
        parts = [execution.fetch(run(variables, data, order, i, i + 1)) for i in range(len(rows))]
        predict = execution.compile_predict(self.experiment.predict_step())
        logits = execution.fetch(predict(variables, data, order, 0))
        return {name: sum(part[name].sum() for part in parts) for name in parts[0]}, logits


def assert_same_training(one, other):
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-4)
    for name in ('params', 'batch_stats', 'ema'):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
            getattr(one.state, name),
            getattr(other.state, name),
        )


def assert_same_evaluation(one, other):
    (sums, logits), (other_sums, other_logits) = one.evaluated, other.evaluated
    assert sums['count'] == other_sums['count'] == 360
    assert sums['loss'] == pytest.approx(other_sums['loss'], rel=1e-3)
    np.testing.assert_allclose(logits, other_logits, rtol=1e-2, atol=1e-3)


@pytest.fixture(scope='module')
def trained():
    """What `train` has made, which does not outlive this module."""
    return {}


@pytest.fixture
def train(config, trained):
    """Trained(config, …), made once for the same arguments."""

    def train(parallel, devices, **options):
        key = parallel, devices, *options.items()
        if key not in trained:
            trained[key] = Trained(config.copy_and_resolve_references(), parallel, devices, **options)
        return trained[key]

    return train


@pytest.mark.parametrize('devices', [2, 8])
@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_several_devices_equal_one(train, parallel, devices):
    one, several = train('jit', 1), train(parallel, devices)
    assert_same_training(one, several)
    np.testing.assert_allclose(one.twenty_losses, several.twenty_losses, rtol=2e-2)
    assert len(jax.tree.leaves(several.states[-1])[0].sharding.device_set) == devices


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_eight_devices_evaluate_as_one(train, parallel):
    assert_same_evaluation(train('jit', 1), train(parallel, 8))


@pytest.mark.parametrize(('parallel', 'devices'), [('jit', 1), ('jit', 2), ('pmap', 2)])
def test_many_steps_in_a_dispatch_equal_one_by_one(train, parallel, devices):
    """As on GPUs."""
    one, many = train('jit', 1), train(parallel, devices, many_steps=True)
    assert_same_training(one, many)
    assert_same_evaluation(one, many)


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_a_split_in_parts_gives_the_rows_that_copies_give(parallel, monkeypatch):
    execution, images = Execution(parallel, jax.devices()[:2]), np.arange(11, dtype=np.uint8)
    monkeypatch.setattr('training.parallel.REPLICATED_SHARE', 0)
    parts = execution.place_data({'image': images})
    order = execution.place_order(np.arange(10, -2, -1, dtype=np.int32).reshape(2, 6))  # the last is padding
    run = execution.compile_predict(lambda variables, batch: batch['image'] * batch['valid'])
    rows = [execution.fetch(run({}, parts, order, index)) for index in range(2)]
    np.testing.assert_array_equal(np.concatenate(rows), [*images[::-1], 0])
    assert parts.arrays['image'].addressable_data(0).nbytes == 6


def test_copies_take_a_share_of_the_devices_memory_and_splits_must_fit_on_the_host_too(monkeypatch):
    monkeypatch.setattr(Execution, '_device_bytes', lambda self: 2.0**7)
    monkeypatch.setattr('training.parallel.available_bytes', lambda: 2.0**5)
    execution = Execution('jit', jax.devices()[:2])
    assert execution.free_bytes() == 2**5
    copied, shared = (execution.place_data({'image': np.zeros(size, np.uint8)}) for size in (16, 17))
    assert (type(copied), type(shared)) == (dict, Sharded)  # 2**7 / 2 / 4 bytes for copies


def test_steps_are_compiled_as_onednn_needs(monkeypatch, config):
    monkeypatch.setattr(onednn, 'COMPILER_OPTIONS', {'an_option': True})
    config.model.convolution = 'onednn'
    execution = create_experiment(config, jax.devices()[:1]).execution
    run = execution.compile_predict(lambda variables, batch: batch['image'])
    with pytest.raises(jax.errors.JaxRuntimeError, match='No such compile option'):
        run({}, {'image': np.zeros((1, 1))}, np.zeros((1, 1), np.int32), 0)


def test_processes_with_unequal_numbers_of_devices_are_refused():
    devices = [SimpleNamespace(process_index=index) for index in (0, 0, 1)]
    with pytest.raises(ConfigError, match=r'unequal numbers of devices \(2, 1\)'):
        Execution('jit', devices)


def test_batch_norm_per_device_is_the_same_under_jit_and_pmap(train):
    apart = train('jit', 8, sync=False)
    assert_same_training(apart, train('pmap', 8, sync=False))
    assert np.abs(apart.losses / train('jit', 1).losses - 1).max() > 2e-4  # another training than with sync


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


@pytest.mark.parametrize(('placed', 'loops'), [('place_data', True), ('place_batch', False)])
def test_only_resident_steps_go_in_a_loop(placed, loops):
    execution = Execution('jit', jax.devices()[:1])
    execution.many_steps = True
    run = execution.compile_train(lambda state, batch, rates: (state, dict.fromkeys(SUMS, state)))
    data = getattr(execution, placed)({'image': np.zeros((4, 1))})
    order = execution.place_order(np.zeros((2, 4), np.int32))
    assert ('while' in str(jax.make_jaxpr(run)(0.0, data, order, {}, 0, 1))) == loops
