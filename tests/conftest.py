"""Eight simulated CPU devices, quick compilation, and small runs that many tests look at.

JAX and what imports it are imported in fixtures alone: of several processes the one that only distributes the
tests does without them.
"""

import json
import os
import shutil

# Before JAX is imported. Compiling takes longer than all else: compile badly, and the same step only once.
os.environ |= {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count=8 {os.environ.get("XLA_FLAGS", "")}',
    'JAX_PLATFORMS': 'cpu',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'JAX_TRACEBACK_IN_LOCATIONS_LIMIT': '0',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
}

from functools import partial

import numpy as np
import pytest
from absl import logging

from configs import default
from input_pipeline.locking import locked

# What takes longest, in the order in which processes are to take it up.
FIRST = ('loop', 'golden', 'parallel', 'feeds', 'command_line', 'local', 'verification', 'streaming')


def pytest_collection_modifyitems(items):
    places = {f'{name}_test.py': place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope='session')
def shared_folder(tmp_path_factory):
    """A folder that all processes of a test session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if 'PYTEST_XDIST_WORKER' in os.environ else folder


@pytest.fixture(scope='session', autouse=True)
def compilation_cache(tmp_path_factory):
    """A folder of this process's, since several would read what others are still writing."""
    import jax

    logging.set_verbosity(logging.WARNING)  # Orbax says a page per checkpoint
    folder = tmp_path_factory.mktemp('compilation')
    jax.config.update('jax_compilation_cache_dir', str(folder))
    return folder


@pytest.fixture
def small_models(monkeypatch):
    """Gives every ResNet a single block, for tests in which the model does not matter."""
    _shrink(monkeypatch)


def _shrink(monkeypatch):
    from jax_models import registry

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
    monkeypatch.setattr('training.plots.save', lambda figure, path: path)
    return tiny()


@pytest.fixture
def light_config(config):
    """`config` without what adds state or randomness, so that its step compiles in a third of the time."""
    config.augmentation.update({'crop_padding': 0, 'flip': False})
    config.model.dropout = config.loss.label_smoothing = config.ema.decay = 0.0
    return config


@pytest.fixture(scope='session')
def finish(shared_folder, compilation_cache):
    """Finishes a run of `tiny` with some keys changed, once for all processes, and returns its workdir."""
    import jax

    from training.run import run

    def finish(name, **changes):
        workdir, compiled = shared_folder / name, shared_folder / f'{name}_compiled'
        config = tiny()
        config.update(changes)
        with locked(shared_folder / f'{name}.lock', busy=lambda: None):
            if compiled.exists():  # by another process
                shutil.copytree(compiled, compilation_cache, dirs_exist_ok=True)
                return workdir
            with pytest.MonkeyPatch.context() as monkeypatch:
                _shrink(monkeypatch)
                run(config, workdir, jax.devices()[:1])
            shutil.copytree(compilation_cache, compiled)
        return workdir

    return finish


@pytest.fixture(scope='session')
def finished(finish):
    """The workdir of a finished run, which tests must not write to."""
    return finish('finished')


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of the finished run, which a test may write to."""
    return shutil.copytree(finished, tmp_path / 'finished')


@pytest.fixture(scope='session')
def assert_same_run():
    """Compares what two runs left, bit for bit, but for times."""
    import jax
    import orbax.checkpoint as ocp

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
