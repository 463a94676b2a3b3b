import re

import jax
import pytest

from training import ConfigError, batch_size
from training.batch_size import Trial, find_batch_size
from training.parallel import Execution


@pytest.fixture
def speeds(monkeypatch):
    """Lets each batch size have a given speed; a size without one does not fit in memory."""
    values = {}

    def attempt(experiment, size, data):
        if size not in values:
            raise jax.errors.JaxRuntimeError(values.get('error', 'RESOURCE_EXHAUSTED: out of memory'))
        return Trial(size, values[size], 10 * size)

    monkeypatch.setattr(batch_size, '_try', attempt)
    return values


def test_the_smallest_of_the_fastest_sizes_is_recommended(config, speeds, capsys):
    speeds |= {32: 100.0, 64: 180.0, 128: 199.0, 256: 200.0}
    config.dataset.validation = 0.5
    assert find_batch_size(config, jax.devices()[:1]) == 128
    printed = capsys.readouterr().out
    assert '512 do not fit in memory' in printed
    assert '--config.batch_size=128' in printed
    assert re.search(r'batch size .* images per second .* memory per device', printed)
    assert re.search(r'256 │ +200 │', printed)


def test_kernels_without_room_are_a_lack_of_memory_once_smaller_batches_ran(config, speeds, capsys):
    speeds |= {32: 100.0, 'error': 'INTERNAL: Autotuning failed for HLO: No valid config found!'}
    find_batch_size(config, jax.devices()[:1])
    assert '64 do not fit in memory' in capsys.readouterr().out
    del speeds[32]
    with pytest.raises(jax.errors.JaxRuntimeError, match='Autotuning failed'):
        find_batch_size(config, jax.devices()[:1])


def test_a_cpu_is_not_filled_to_the_brim(light_config, monkeypatch):
    monkeypatch.setattr(Execution, 'free_bytes', lambda self: 2**15)
    monkeypatch.setattr(batch_size, 'SECONDS', 0.0)
    with pytest.raises(ConfigError, match='32 do not fit in memory'):
        find_batch_size(light_config, jax.devices()[:1])


def test_it_stops_where_doubling_gains_nothing(config, speeds, capsys):
    speeds |= {32: 100.0, 64: 101.0, 128: 102.0}
    assert find_batch_size(config, jax.devices()[:1]) == 32
    assert 'two doublings in a row' in capsys.readouterr().out


def test_a_model_that_never_fits_is_an_error(config, speeds):
    with pytest.raises(ConfigError, match=r'32 do not fit in memory; make config\.model\.width smaller'):
        find_batch_size(config, jax.devices()[:1])


# Fewer images than the first size; no part with a single image; a size that does not divide the config's.
@pytest.mark.parametrize(('size', 'parts', 'validation'), [(18, 3, 1437 - 20), (128, 64, 0.5), (33, 3, 1340)])
def test_the_first_size_suits_images_and_accumulation(config, speeds, size, parts, validation):
    speeds[size] = 1.0
    config.optimizer.accumulation_steps, config.dataset.validation = parts, validation
    assert find_batch_size(config, jax.devices()[:1]) == size


def test_more_accumulation_steps_than_images_are_said(config):
    config.optimizer.accumulation_steps, config.dataset.validation = 64, 1437 - 100
    with pytest.raises(ConfigError, match='two images for each device and accumulation step are 128, of 100'):
        find_batch_size(config, jax.devices()[:1])


def test_augmentation_that_does_not_fit_the_images_is_refused(config):
    config.augmentation.blur = 11
    with pytest.raises(ConfigError, match='blur=11: larger than the images, which have 8 pixels'):
        find_batch_size(config, jax.devices()[:1])


def test_other_errors_are_not_taken_for_a_full_memory(config, monkeypatch):
    def attempt(experiment, size, data):
        raise jax.errors.JaxRuntimeError('INTERNAL: broken')

    monkeypatch.setattr(batch_size, '_try', attempt)
    with pytest.raises(jax.errors.JaxRuntimeError, match='broken'):
        find_batch_size(config, jax.devices()[:1])


@pytest.mark.parametrize(('parallel', 'many_steps'), [('jit', True), ('pmap', False)])
def test_real_steps_are_timed_on_all_devices(light_config, parallel, many_steps, monkeypatch):
    trials, attempt = [], batch_size._try

    def attempt_and_look(experiment, size, data):
        assert {len(array.sharding.device_set) for array in jax.tree.leaves(data)} == {2}
        trials.append(attempt(experiment, size, data))
        return trials[-1]

    monkeypatch.setattr(batch_size, '_try', attempt_and_look)
    either = property(lambda self: many_steps, lambda self, value: None)
    monkeypatch.setattr(Execution, 'many_steps', either, raising=False)
    monkeypatch.setattr(batch_size, 'SECONDS', 0.2 * many_steps)  # one step takes less than a quarter of it
    light_config.parallel, light_config.dataset.validation = parallel, 1390  # 47 images remain
    assert find_batch_size(light_config, jax.devices()[:2]) == 32
    (trial,) = trials
    assert trial.batch_size == 32
    assert min(trial.images_per_second, trial.bytes) > 0
