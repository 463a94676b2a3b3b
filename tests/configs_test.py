from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.loaders import training_order
from training.config import check
from training.experiment import check_training, create_experiment, resolve

FILES = sorted((Path(__file__).parents[1] / 'configs').glob('[!_]*.py'))


@pytest.mark.parametrize('name', [file.stem for file in FILES if file.stem != 'default'])
def test_config_is_allowed_and_takes_a_step(name, small_models):
    module = import_module(f'configs.{name}')
    config = module.get_config()
    check(config)
    data = {
        'name': 'digits',
        'image_size': 0,
        'validation': 0.5,
        'validation_split': '',
        'test_split': 'test',
    }
    config.dataset.update(data)
    config.verification.pairs, config.batch_size = '', 16
    config.augmentation.crop_padding = min(config.augmentation.crop_padding, 2)
    config.model.width, config.model.convolution = 4, 'xla'

    devices = jax.devices()[:1]
    experiment = create_experiment(resolve(config, devices), devices)
    check_training(experiment)
    execution, loader = experiment.execution, experiment.loaders['train']
    order = execution.place_order(training_order(loader.size, seed=0, epoch=0)[None, :16])
    state, data = execution.replicate(experiment.create_state()), execution.replicate(loader.arrays)
    run = execution.compile_train(experiment.train_step())
    state, sums = run(state, data, order, {'learning_rate': jnp.full(1, 0.01)}, 0, 1)
    assert np.isfinite(execution.fetch(sums)['loss']).all()
    assert sums['count'] == 16


def test_every_config_says_how_to_run_it():
    for file in FILES:
        if file.stem != 'default':
            assert f'configs/{file.name}' in file.read_text() or 'make train' in file.read_text(), file.name
            assert len(file.read_text().splitlines()) <= 90
