import numpy as np
import pytest

from configs import default
from training.schedules import learning_rates


def rates(steps_per_epoch=10, epochs=4, **schedule):
    config = default.get_config()
    config.epochs, config.optimizer.learning_rate = epochs, 0.2
    config.schedule.update(schedule)
    return np.concatenate([learning_rates(config, steps_per_epoch, epoch) for epoch in range(epochs)])


def test_cosine_falls_from_the_highest_rate_to_one_step_before_the_final():
    values = rates(final_learning_rate=0.02)
    assert values[0] == 0.2
    assert values[20] == pytest.approx(0.11)  # half-way
    assert 0.02 < values[-1] < 0.021
    assert (np.diff(values) < 0).all()


def test_warmup_is_linear_and_ends_at_the_highest_rate():
    values = rates(warmup_epochs=1.5)
    np.testing.assert_allclose(values[:15], 0.2 * np.arange(1, 16) / 15)
    assert values[15] == 0.2  # the cosine begins
    assert values[16] < 0.2


def test_rate_by_epoch_changes_only_between_epochs():
    values = rates(interval='epoch', warmup_epochs=1.0).reshape(4, 10)
    assert (values == values[:, :1]).all()
    np.testing.assert_allclose(values[:, 0], [0.2, 0.2, 0.15, 0.05])


def test_constant_rate_can_warm_up():
    values = rates(name='constant', warmup_epochs=0.2)
    np.testing.assert_allclose(values, [0.1] + 39 * [0.2])


def test_single_step_run_has_the_highest_rate():
    np.testing.assert_allclose(rates(steps_per_epoch=1, epochs=1), [0.2])
