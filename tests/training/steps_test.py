from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from training.losses import cross_entropy
from training.optimizers import create_optimizer
from training.state import create_state
from training.steps import (
    augment_batch,
    create_predict_step,
    create_train_step,
    evaluation_sums,
    to_float,
)

SHAPE = (3, 3, 1)


class Model(nn.Module):
    """Without batch norm, so that the parts of a batch do not influence each other."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, images, *, train):
        mean = self.variable('batch_stats', 'mean', jnp.zeros, ())
        if train:
            mean.value = images.mean()
        x = nn.Dropout(self.dropout)(images.reshape(len(images), -1), deterministic=not train)
        return nn.Dense(4)(x)


def batch(size=12):
    rng = np.random.default_rng(0)
    return {
        'image': rng.integers(0, 256, (size, *SHAPE), np.uint8),
        'label': rng.integers(0, 4, size).astype(np.int32),
        'position': np.arange(size, dtype=np.int32),
    }


def take_steps(
    count=1, *, dropout=0.0, augment=lambda images, keys: images, rate=0.1, functions=None, **keys
):
    """The states before the first and after each step, and the sums of the last."""
    config = default.get_config()
    config.update_from_flattened_dict(keys)
    model, optimizer = Model(dropout), create_optimizer(config.optimizer)
    states = [create_state(model, optimizer, SHAPE, seed=0, ema=bool(config.ema.decay))]
    functions = {'augment': augment, 'normalize': lambda images: images, **(functions or {})}
    prepare = partial(augment_batch, seed=0, **functions)
    step = jax.jit(create_train_step(config, model, optimizer, augment_batch=prepare))
    for _ in range(count):
        state, sums = step(states[-1], batch(), {'learning_rate': jnp.float32(rate)})
        states.append(state)
    return states, sums


def assert_close(one, other, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol=1e-7), one, other)


def test_accumulated_parts_equal_the_whole_batch():
    (_, whole), sums = take_steps()
    (_, parts), part_sums = take_steps(**{'optimizer.accumulation_steps': 3})
    assert_close(whole.params, parts.params)
    assert_close(sums, part_sums)
    assert part_sums['count'] == 12


def test_sums_add_up_loss_and_hits_of_the_batch():
    (before, _), sums = take_steps(**{'loss.label_smoothing': 0.1})
    data = batch()
    logits = create_predict_step(Model(), normalize=lambda x: x)(before.variables, data)
    losses = cross_entropy(logits, data['label'], label_smoothing=0.1)
    assert sums['loss'] == pytest.approx(float(losses.sum()), rel=1e-5)
    assert sums['correct'] == (logits.argmax(1) == data['label']).sum()


def test_update_is_the_given_rate_times_the_mean_gradient():
    keys = {'optimizer.momentum': 0.0, 'optimizer.weight_decay': 0.0}
    (before, after), _ = take_steps(rate=0.25, **keys)

    def loss(params):
        variables = {'params': params, 'batch_stats': before.batch_stats}
        logits = Model().apply(variables, to_float(batch()['image']), train=False)
        return cross_entropy(logits, batch()['label']).mean()

    gradients = jax.grad(loss)(before.params)
    assert_close(after.params, jax.tree.map(lambda p, g: p - 0.25 * g, before.params, gradients))
    assert after.step == 1


def test_moving_average_follows_weights_and_statistics():
    (first, second, third), _ = take_steps(2, **{'ema.decay': 0.15})
    # The first keeps 1 / 10 of the old, as a young average does, the second 15 %, less than 2 / 11.
    for states, keep in (((first, second), 0.1), ((second, third), 0.15)):
        old, new = states
        expected = jax.tree.map(
            lambda a, b, keep=keep: keep * a + (1 - keep) * b,
            old.ema,
            {'params': new.params, 'batch_stats': new.batch_stats},
        )
        assert_close(new.ema, expected)
    assert third.variables is third.ema
    assert second.batch_stats['mean'] > 0.1


def test_without_moving_average_the_weights_are_evaluated():
    (_, state), _ = take_steps()
    assert state.ema is None
    assert state.variables['params'] is state.params


def test_every_step_and_image_has_its_own_key():
    seen = []

    def augment(images, keys):
        jax.debug.callback(seen.append, jax.random.key_data(keys))
        return images

    take_steps(2, augment=augment)
    jax.effects_barrier()
    assert len(np.unique(np.concatenate(seen), axis=0)) == 24


def test_dropout_differs_from_step_to_step_but_not_between_calls():
    first, again, second = (float(take_steps(n, dropout=0.5, rate=0)[1]['loss']) for n in (1, 1, 2))
    assert first == again != second


def test_mixed_targets_are_learned_and_the_largest_share_is_counted():
    shares = jnp.array([0.3, 0.6, 0.1, 0.0])

    def mix(images, labels, key):
        assert labels.shape == (12,)
        return images / 2, jnp.broadcast_to(shares, (12, 4))

    (before, _), sums = take_steps(functions={'mix': mix}, **{'optimizer.accumulation_steps': 3})
    halved = lambda images: images / 2  # noqa: E731
    logits = create_predict_step(Model(), normalize=halved)(before.variables, batch())
    assert sums['loss'] == pytest.approx(
        float(cross_entropy(logits, jnp.tile(shares, (12, 1))).sum()), rel=1e-5
    )
    assert sums['correct'] == (logits.argmax(1) == 1).sum()


def test_each_step_mixes_with_its_own_key():
    seen = []

    def mix(images, labels, key):
        jax.debug.callback(seen.append, jax.random.key_data(key))
        return images, jax.nn.one_hot(labels, 4)

    take_steps(2, functions={'mix': mix})
    jax.effects_barrier()
    assert len(np.unique(seen, axis=0)) == 2


def test_what_comes_after_normalization_sees_normalized_images():
    def augment_normalized(images, keys):
        assert len(keys) == 12
        return jnp.where(images < 0, 0, images)

    functions = {'normalize': lambda images: images - 0.5, 'augment_normalized': augment_normalized}
    (_, after), _ = take_steps(functions=functions)
    expected = np.maximum(to_float(batch()['image']) - 0.5, 0).mean()
    assert after.batch_stats['mean'] == pytest.approx(float(expected), rel=1e-5)


def test_padding_does_not_count_in_evaluation():
    logits, data = jnp.eye(4) * 3, {'label': jnp.array([0, 1, 0, 3]), 'valid': jnp.array([1, 1, 1, 0], bool)}
    sums = evaluation_sums(logits, data)
    assert (sums['correct'], sums['count']) == (2, 3)
    assert sums['loss'] == pytest.approx(float(cross_entropy(logits, data['label'])[:3].sum()))


def test_pixels_are_scaled_to_between_0_and_1():
    np.testing.assert_allclose(to_float(jnp.array([0, 51, 255], jnp.uint8)), [0, 0.2, 1], rtol=1e-6)
