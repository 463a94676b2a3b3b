import re
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from training.config import check
from training.experiment import check_training, create_experiment
from training.resolve import resolve

FILES = sorted((Path(__file__).parents[1] / 'configs').glob('[!_]*.py'))


def run_step(config):
    """Checks a config and runs a step of it on digits with a narrow model: the states around it, its sums."""
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
    augmentation = config.augmentation
    augmentation.crop_padding = min(augmentation.crop_padding, 2)
    augmentation.cutout = min(augmentation.cutout, 8)
    config.model.width, config.model.convolution = 4, 'xla'
    config.model.stage_sizes = config.model.stage_sizes and (1,)

    devices = jax.devices()[:1]
    experiment = create_experiment(resolve(config, devices), devices)
    check_training(experiment)
    execution, before = experiment.execution, experiment.create_state()
    run, state = execution.compile_train(experiment.train_step()), jax.tree.map(jnp.copy, before)
    data, order = (
        execution.place_data(experiment.loaders['train'].arrays),
        np.arange(16, dtype=np.int32)[None],
    )
    after, sums = run(state, data, order, {'learning_rate': np.full(1, 1e-3, np.float32)}, 0, 1)
    return before, after, sums


def described(tree):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)


@pytest.mark.parametrize('name', [file.stem for file in FILES if file.stem != 'default'])
def test_config_is_allowed_and_its_step_runs(small_models, name):
    before, after, sums = run_step(import_module(f'configs.{name}').get_config())
    assert described(after) == described(before)
    assert sums['count'] == 16
    assert np.isfinite(sums['loss'])
    assert optax.tree.norm(optax.tree.sub(after.params, before.params)) > 0


def test_bfloat16_leaves_what_is_kept_in_float32(small_models):
    config = default.get_config()
    config.precision, config.ema.decay = 'bfloat16', 0.9
    _, state, _ = run_step(config)
    kept = jax.tree.leaves((state.params, state.batch_stats, state.opt_state, state.ema))
    assert {str(x.dtype) for x in kept if jnp.issubdtype(x.dtype, jnp.floating)} == {'float32'}


def test_every_key_has_a_comment():
    lines = (FILES[0].parent / 'default.py').read_text().splitlines()
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if re.match(r'    \w+(\.\w+)? = ', line) and 'ConfigDict()' not in line:
            there = line + after if line.endswith('(') else line
            assert '#' in there or before.lstrip().startswith('#'), line


def test_every_config_says_how_to_run_it():
    for file in FILES:
        if file.stem != 'default':
            assert f'configs/{file.name}' in file.read_text() or 'make train' in file.read_text(), file.name
            assert len(file.read_text().splitlines()) <= 90
