from functools import partial
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from jax_models import registry
from training.config import check
from training.experiment import check_training, create_experiment, resolve
from training.parallel import SUMS

FILES = sorted((Path(__file__).parents[1] / 'configs').glob('[!_]*.py'))


@pytest.fixture
def trace(monkeypatch):
    """Checks a config and traces its step with a single block a stage: the states around it, its sums."""
    for name, model in registry.MODELS.items():
        if sizes := getattr(model, 'keywords', {}).get('stage_sizes'):
            monkeypatch.setitem(registry.MODELS, name, partial(model, stage_sizes=(1,) * len(sizes)))
    return _trace


def _trace(config):
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
    config.model.stage_sizes = (1,) * len(config.model.stage_sizes)

    devices = jax.devices()[:1]
    experiment = create_experiment(resolve(config, devices), devices)
    check_training(experiment)
    run, state = experiment.execution.compile_train(experiment.train_step()), experiment.abstract_state()
    data, order = experiment.loaders['train'].arrays, np.zeros((1, 16), np.int32)
    after, sums = run.eval_shape(state, data, order, {'learning_rate': np.ones(1, np.float32)}, 0, 1)
    return state, after, sums


def described(tree):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)


@pytest.mark.parametrize('name', [file.stem for file in FILES if file.stem != 'default'])
def test_config_is_allowed_and_its_step_traces(trace, name):
    """Compiling every step takes minutes; tests/parity runs those of the recipes."""
    before, after, sums = trace(import_module(f'configs.{name}').get_config())
    assert described(after) == described(before)
    assert described(sums) == dict.fromkeys(SUMS, ((1,), 'float32'))


def test_bfloat16_leaves_what_is_kept_in_float32(trace):
    config = default.get_config()
    config.precision, config.ema.decay = 'bfloat16', 0.9
    _, state, _ = trace(config)
    kept = jax.tree.leaves((state.params, state.batch_stats, state.opt_state, state.ema))
    assert {str(x.dtype) for x in kept if jnp.issubdtype(x.dtype, jnp.floating)} == {'float32'}


def test_every_config_says_how_to_run_it():
    for file in FILES:
        if file.stem != 'default':
            assert f'configs/{file.name}' in file.read_text() or 'make train' in file.read_text(), file.name
            assert len(file.read_text().splitlines()) <= 90
