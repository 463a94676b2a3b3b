from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.config import check
from training.experiment import check_training, create_experiment, resolve
from training.parallel import SUMS

FILES = sorted((Path(__file__).parents[1] / 'configs').glob('[!_]*.py'))


@pytest.mark.parametrize('name', [file.stem for file in FILES if file.stem != 'default'])
def test_config_is_allowed_and_its_step_traces(name):
    """Compiling every step takes minutes; tests/parity runs those of the recipes."""
    module = import_module(f'configs.{name}')
    config = module.get_config()
    config.dataset.folder = '' if config.dataset.name else 'DIR'
    check(config)
    data = {
        'name': 'digits',
        'folder': '',
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
    run, state = experiment.execution.compile_train(experiment.train_step()), experiment.abstract_state()
    data, order = experiment.loaders['train'].arrays, np.zeros((1, 16), np.int32)
    after, sums = run.eval_shape(state, data, order, {'learning_rate': np.ones(1, np.float32)}, 0, 1)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert jax.tree.map(jnp.shape, sums) == dict.fromkeys(SUMS, (1,))


def test_every_config_says_how_to_run_it():
    for file in FILES:
        if file.stem != 'default':
            assert f'configs/{file.name}' in file.read_text() or 'make train' in file.read_text(), file.name
            assert len(file.read_text().splitlines()) <= 90
