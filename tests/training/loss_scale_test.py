import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from training import NonFiniteLoss
from training.checkpoints import Checkpoints
from training.loss_scale import LossScale, all_finite, create_loss_scale, next_loss_scale
from training.optimizers import create_optimizer
from training.run import run
from training.state import create_state
from training.steps import create_train_step, to_float


def scales(*overflows, initial=8.0, steps=0, growth_interval=2, **keys):
    """The scale after each step."""
    config = default.get_config().loss_scale
    config.update({'growth_interval': growth_interval, **keys})
    scale, values = LossScale(jnp.float32(initial), jnp.int32(steps)), []
    for overflow in overflows:
        scale = next_loss_scale(scale, jnp.bool(not overflow), config)
        values.append(float(scale.value))
    return values


def test_scale_grows_after_an_interval_without_overflow():
    assert scales(0, 0, 0, 0, 0) == [8, 16, 16, 32, 32]


def test_overflow_halves_and_begins_the_interval_again():
    assert scales(0, 1, 0, 1, 0, 0) == [8, 4, 4, 2, 2, 4]


def test_scale_stays_below_its_cap():
    assert scales(0, 0, 0, 0, max=20.0) == [8, 16, 16, 20]


def test_defaults_are_torchs():
    config = default.get_config().loss_scale
    assert create_loss_scale(config).value == 65536
    assert scales(0, 1, initial=65536.0, steps=1999, growth_interval=2000) == [131072, 65536]


class Model(nn.Module):
    """Half precision, whose gradients overflow at a large scale, or whose logits do."""

    factor: float = 1.0

    @nn.compact
    def __call__(self, images, *, train):
        mean = self.variable('batch_stats', 'mean', jnp.zeros, ())
        if train:
            mean.value = images.mean()
        x = (self.factor * images.reshape(len(images), -1)).astype(jnp.float16)
        return nn.Dense(4, dtype=jnp.float16)(x).astype(jnp.float32)


def take_step(initial, *, factor=1.0, parts=1, devices=0):
    """The states before and after a step, and its sums.

    With `devices` it runs under pmap, and all images but those of the first device are black.
    """
    config = default.get_config()
    config.ema.decay, config.loss_scale.initial, config.optimizer.accumulation_steps = 0.9, initial, parts
    model, optimizer = Model(factor), create_optimizer(config.optimizer)
    scale = create_loss_scale(config.loss_scale)
    before = create_state(model, optimizer, (2, 2, 1), seed=0, ema=True, loss_scale=scale)
    functions = {'augment_batch': lambda batch, step: (to_float(batch['image']), batch['label'])}
    images = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 1), np.uint8)
    batch = {'image': images, 'label': np.arange(8) % 4, 'position': np.arange(8)}
    rates = {'learning_rate': jnp.float32(0.1)}
    if not devices:
        return before, *jax.jit(create_train_step(config, model, optimizer, **functions))(
            before, batch, rates
        )
    batch['image'] = images * (np.arange(8) < 8 // devices)[:, None, None, None]
    batch = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    step = create_train_step(config, model, optimizer, **functions, axis_name='batch')
    return before, *jax.pmap(step, 'batch', in_axes=(None, 0, None))(before, batch, rates)


@pytest.mark.parametrize('parts', [1, 2])
@pytest.mark.parametrize(('initial', 'factor'), [(2.0**24, 1.0), (8.0, 1e9)])
def test_overflowing_step_changes_only_its_number_and_the_scale(initial, factor, parts):
    before, after, sums = take_step(initial, factor=factor, parts=parts)
    expected = before.replace(step=after.step, loss_scale=after.loss_scale)
    jax.tree.map(np.testing.assert_array_equal, after, expected)
    assert (after.step, after.loss_scale.value) == (1, initial / 2)
    loss_is_finite = factor == 1.0
    assert sums['count'] == 8 * loss_is_finite
    assert (sums['loss'] > 0) == loss_is_finite


def test_scale_cancels_out_of_an_update():
    """Powers of two cost no precision."""
    (_, one, _), (_, other, sums) = take_step(2.0), take_step(256.0)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert sums['count'] == 8
    assert not np.array_equal(*(state.params['Dense_0']['kernel'] for state in take_step(2.0)[:2]))


def test_overflow_on_one_device_skips_the_step_on_all():
    before, after, sums = take_step(8.0, factor=1e9, devices=2)
    np.testing.assert_array_equal(after.loss_scale.value, [4, 4])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, [b, b]), after.params, before.params)
    np.testing.assert_array_equal(sums['count'], 0)


def test_overflow_at_a_scale_below_1_is_told():
    _, _, sums = take_step(0.5, factor=1e9)
    assert np.isnan(sums['loss'])


def test_scale_survives_a_checkpoint(tmp_path):
    _, state, _ = take_step(2.0**24)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save('last', 1, state, {})
    checkpoints.close()
    restored = checkpoints.restore('last', 1, jax.eval_shape(lambda: state))
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    checkpoints.close()


def test_all_entries_must_be_finite():
    assert all_finite({'a': jnp.ones(3), 'b': jnp.zeros(())})
    assert not all_finite({'a': jnp.ones(3), 'b': jnp.array([0, jnp.inf])})


def test_float16_learns_as_float32_does(config, finished, tmp_path):
    config.precision = 'float16'
    loss = run(config, tmp_path, jax.devices()[:1])['last_train_loss']
    expected = json.loads((finished / 'results.json').read_text())['last_train_loss']
    assert loss == pytest.approx(expected, rel=0.02)


def test_divergence_in_float16_stops_the_run(config, tmp_path):
    config.precision, config.loss_scale.initial, config.optimizer.learning_rate = 'float16', 2.0, 1e6
    with pytest.raises(NonFiniteLoss, match='Try precision=bfloat16, a lower'):
        run(config, tmp_path, jax.devices()[:1])
