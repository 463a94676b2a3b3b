"""Holds every scheduler step's rate and momentum against PyTorch's, in float64 (make_golden.py)."""

from pathlib import Path

import numpy as np
import pytest

from configs import default
from tests.parity import formula
from training.config import check
from training.schedules import Plateau, hyperparameters

FOLDER = Path(__file__).parent / 'golden'


def create_config(rate, keys):
    config = default.get_config()
    config.epochs, config.schedule.interval = formula.SCHEDULE_LENGTH, 'epoch'
    config.optimizer.learning_rate = rate
    config.schedule.update(keys)
    check(config)
    return config


def schedule(config):
    """Returns {name: float64[250]}: one value a scheduler step."""
    steps = formula.STEPS_PER_EPOCH if config.schedule.interval == 'step' else 1
    epochs = range(formula.SCHEDULE_LENGTH // steps)
    values = [hyperparameters(config, steps, epoch, Plateau()) for epoch in epochs]
    return {name: np.concatenate([part[name] for part in values]) for name in values[0]}


def assert_rates(ours, expected, base):
    assert np.abs(ours - expected).max() < 1e-7 * base
    assert (ours[expected == 0] == 0).all()


@pytest.mark.parametrize('case', list(formula.SCHEDULES))
def test_rates_and_momenta_are_torchs(case):
    rate, keys = formula.SCHEDULES[case]
    rates, momenta = np.load(FOLDER / 'schedules.npz')[case]
    ours = schedule(create_config(rate, keys))
    assert_rates(ours['learning_rate'], rates, rate)
    assert ('momentum' in ours) == (keys['name'] == 'onecycle')
    np.testing.assert_allclose(ours.get('momentum', 0.9), momenta, rtol=1e-7)


@pytest.mark.parametrize('case', list(formula.PLATEAUS))
def test_plateau_rates_are_torchs(case):
    rate, kind, keys = formula.PLATEAUS[case]
    names = {'min_lr': 'final_learning_rate'}
    keys = {names.get(key, f'plateau_{key}'): value for key, value in keys.items()}
    metric = 'val_accuracy' if keys.get('plateau_mode') == 'max' else 'val_loss'
    config = create_config(rate, {'name': 'plateau', 'plateau_metric': metric, **keys})
    plateau, rates = Plateau(), []
    for epoch, value in enumerate(formula.metrics(kind)):
        rates += list(hyperparameters(config, 1, epoch, plateau)['learning_rate'])
        plateau.step(config, {'epoch': epoch + 1, metric: value})
    golden = np.load(FOLDER / 'plateaus.npz')[case]
    assert len(set(golden)) > 1, 'this case shows nothing'
    assert_rates(np.array(rates), golden, rate)


@pytest.mark.parametrize('factor', [1, 2])
def test_decaying_restarts_multiply_the_highest_rate_at_each_restart(factor):
    keys = {'t_0': 10, 't_mult': factor, 'restart_decay': 0.7, 'final_learning_rate': 0.001}
    ours = schedule(create_config(0.1, {'name': 'cosine_restarts', **keys}))['learning_rate']
    highest, since, length, expected = 0.1, 0, 10, []
    for _ in range(formula.SCHEDULE_LENGTH):
        expected.append(0.001 + (highest - 0.001) * (1 + np.cos(np.pi * since / length)) / 2)
        since += 1
        if since == length:
            highest, since, length = highest * 0.7, 0, length * factor
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
