import math

import numpy as np
import pytest

from configs import default
from training.schedules import Plateau, applied_rates, hyperparameters, warmup_epochs


def create_config(epochs=4, **schedule):
    config = default.get_config()
    config.epochs, config.optimizer.learning_rate = epochs, 0.2
    config.schedule.update(schedule)
    return config


def applied(steps_per_epoch=10, epochs=4, **schedule):
    config = create_config(epochs, **schedule)
    parts = [hyperparameters(config, steps_per_epoch, epoch, Plateau()) for epoch in range(epochs)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rates(*args, **schedule):
    return applied(*args, **schedule)['learning_rate']


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


def test_time_begins_after_warmup():
    later = rates(name='step', step_size=2, warmup_epochs=1.5)
    assert (later[15:35] == 0.2).all()
    np.testing.assert_allclose(later[35:], 0.02)


def test_onecycle_warms_up_to_its_first_rate_and_stays_at_its_end():
    keys = {'name': 'onecycle', 'interval': 'epoch', 'total_steps': 4, 'pct_start': 0.5}
    cycle = applied(epochs=8, warmup_epochs=2.0, **keys)
    expected = [4e-3, 8e-3, 8e-3, 0.2, 0.1000004, 8e-7, 8e-7, 8e-7]
    np.testing.assert_allclose(cycle['learning_rate'][::10], expected, rtol=1e-9)
    np.testing.assert_allclose(cycle['momentum'][::10], [0.95, 0.95, 0.95, 0.85, 0.9, 0.95, 0.95, 0.95])
    assert 'momentum' not in applied(name='onecycle', cycle_momentum=False)


@pytest.mark.parametrize('total', [1, 2, 3, 10])
def test_onecycle_of_few_steps_is_finite(total):
    cycle = applied(steps_per_epoch=1, epochs=total, name='onecycle', pct_start=0.5)
    assert np.isfinite(cycle['learning_rate']).all()
    assert (cycle['learning_rate'] <= 0.2).all()


@pytest.mark.parametrize(
    ('interval', 'warmup', 'expected'),
    [('step', 5.0, 2.5), ('epoch', 9.0, 2), ('step', 2.4, 2.4), ('epoch', 1.6, 2), ('epoch', 1.4, 1)],
)
def test_warmup_takes_at_most_half_of_the_run(interval, warmup, expected):
    assert warmup_epochs(create_config(5, interval=interval, warmup_epochs=warmup)) == expected


def test_plateau_counts_from_the_first_epoch_after_the_rounded_warmup():
    keys = {'plateau_metric': 'val_loss', 'plateau_patience': 0, 'interval': 'epoch'}
    config = create_config(5, name='plateau', warmup_epochs=1.4, **keys)
    records = [{'epoch': n + 1, 'epochs': 5, 'val_loss': 1.0} for n in range(5)]
    np.testing.assert_allclose(applied_rates(config, 1, records), [0.2, 0.2, 0.2, 0.02, 0.002])


def test_plateau_reduces_the_rate_and_does_not_listen_during_warmup():
    config = create_config(
        6, name='plateau', plateau_metric='val_loss', plateau_patience=1, warmup_epochs=1.5
    )
    losses = [0.1, 0.1, 2, 3, 4, 4]
    records = [{'epoch': n + 1, 'epochs': 6, 'val_loss': loss} for n, loss in enumerate(losses)]
    rates = applied_rates(config, 2, records)
    np.testing.assert_allclose(rates, 0.2 * np.array([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1, 0.1, 0.1]))


def test_rates_before_the_run_was_extended_are_shown_as_they_were():
    rates = applied_rates(create_config(4, name='cosine'), 1, [{'epochs': n} for n in (2, 2, 4, 4)])
    cosine = [0.2 * (1 + math.cos(math.pi * time)) / 2 for time in (0, 1 / 2, 2 / 4, 3 / 4)]
    np.testing.assert_allclose(rates, cosine)


@pytest.mark.parametrize(('scaling', 'highest'), [('none', 0.2), ('linear', 0.8), ('sqrt', 0.4)])
def test_rates_scale_with_the_batch_only_where_asked_to(scaling, highest):
    for schedule in ('cosine', 'onecycle', 'plateau'):
        config = create_config(name=schedule, pct_start=0.1)
        config.batch_size, config.optimizer.reference_batch = 512, 128
        config.optimizer.scale_with_batch = scaling
        assert hyperparameters(config, 10, 0, Plateau())['learning_rate'].max() == pytest.approx(highest)
