"""Eight simulated CPU devices, quick compilation, and small runs that many tests look at."""

import json
import os

# Before JAX is imported.
os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count=8 {os.environ.get("XLA_FLAGS", "")}'
os.environ['JAX_PLATFORMS'] = 'cpu'

from functools import partial

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import logging

from configs import default
from jax_models import registry
from training import plots
from training.run import run


@pytest.fixture(scope='session', autouse=True)
def _quick_compilation(tmp_path_factory):
    """Compiling takes longer than all else: compile badly, and the same step only once."""
    logging.set_verbosity(logging.WARNING)  # Orbax says a page per checkpoint
    jax.config.update('jax_disable_most_optimizations', True)
    jax.config.update('jax_traceback_in_locations_limit', 0)
    jax.config.update('jax_compilation_cache_dir', str(tmp_path_factory.mktemp('compilation')))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


@pytest.fixture
def small_models(monkeypatch):
    """Gives every ResNet a single block, for tests in which the model does not matter."""
    _shrink(monkeypatch)


def _shrink(monkeypatch):
    for name, model in registry.MODELS.items():
        if 'stage_sizes' in getattr(model, 'keywords', ()):
            monkeypatch.setitem(registry.MODELS, name, partial(model, stage_sizes=(1,)))


def tiny():
    """A run of 3 epochs of 5 whole batches and one of 13, with all that adds state or randomness."""
    config = default.get_config()
    config.epochs = 3
    config.batch_size = 64
    config.dataset.name = 'digits'
    config.dataset.validation = 1104  # of 1,437
    config.augmentation.crop_padding = 1
    config.augmentation.flip = True
    config.model.width = 4
    config.model.dropout = 0.1
    config.model.convolution = 'xla'  # compiles faster
    config.loss.label_smoothing = 0.1
    config.schedule.warmup_epochs = 0.5
    config.ema.decay = 0.9
    config.checkpoint.min_seconds = 0.0
    return config


@pytest.fixture
def config(small_models, monkeypatch):
    """The config of `finished`, to be changed at will; nothing is drawn, which takes long."""
    monkeypatch.setattr(plots, 'save', lambda figure, path: path)
    return tiny()


@pytest.fixture
def light_config(config):
    """`config` without what adds state or randomness, so that its step compiles in a third of the time."""
    config.augmentation.update({'crop_padding': 0, 'flip': False})
    config.model.dropout = config.loss.label_smoothing = config.ema.decay = 0.0
    return config


@pytest.fixture(scope='session')
def finish(tmp_path_factory):
    """Finishes a run of `tiny` with some keys changed, and returns its workdir."""

    def finish(name, **changes):
        workdir, config = tmp_path_factory.mktemp('runs') / name, tiny()
        config.update(changes)
        with pytest.MonkeyPatch.context() as monkeypatch:
            _shrink(monkeypatch)
            run(config, workdir, jax.devices()[:1])
        return workdir

    return finish


@pytest.fixture(scope='session')
def finished(finish):
    """The workdir of a finished run, which tests must not write to."""
    return finish('finished')


@pytest.fixture(scope='session')
def assert_same_run():
    """Compares what two runs left, bit for bit, but for times."""

    def arrays(workdir, name):
        (step,) = sorted((workdir / 'checkpoints' / name).iterdir(), key=lambda path: int(path.name))[-1:]
        return ocp.StandardCheckpointer().restore(step / 'arrays')

    def without_times(values):
        return {k: v for k, v in values.items() if 'second' not in k and k != 'data_wait'}

    def compare(one, other, names=('last', 'best')):
        lines = [(workdir / 'metrics.jsonl').read_text().splitlines() for workdir in (one, other)]
        for first, second in zip(*lines, strict=True):
            assert without_times(json.loads(first)) == without_times(json.loads(second))
        results = [json.loads((workdir / 'results.json').read_text()) for workdir in (one, other)]
        assert without_times(results[0]) == without_times(results[1])
        for name in names:
            jax.tree.map(np.testing.assert_array_equal, arrays(one, name), arrays(other, name))

    return compare
