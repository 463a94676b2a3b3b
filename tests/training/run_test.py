import json
import re
import shutil
from dataclasses import replace

import flax.linen as nn
import jax
import numpy as np
import pytest

from input_pipeline import DataError, prepare, sources
from input_pipeline.locking import locked
from jax_models import registry
from training import CheckpointError, ConfigError
from training.checkpoints import Checkpoints
from training.evaluation import evaluate
from training.experiment import augmented_images, create_experiment
from training.loop import Training
from training.resolve import resolve
from training.run import run

DEVICES = jax.devices()[:1]


def content(workdir):
    return {path: path.stat().st_mtime_ns for path in workdir.rglob('*')}


def test_a_run_leaves_what_is_promised(finished):
    results = json.loads((finished / 'results.json').read_text())
    records = [json.loads(line) for line in (finished / 'metrics.jsonl').read_text().splitlines()]
    assert [(record['epoch'], record['step']) for record in records] == [(1, 6), (2, 12), (3, 18)]
    assert results['val_accuracy'] == max(record['val_accuracy'] for record in records)
    assert Checkpoints(finished / 'checkpoints').steps('best')[-1] == 6 * results['best_epoch']
    assert (results['selected_on'], results['epochs'], results['seed']) == ('val', 3, 0)
    assert 0 < results['test_accuracy'] < 1
    assert results['parameters'] == 398
    assert results['train_seconds'] == pytest.approx(sum(record['seconds'] for record in records))
    assert 'jax' in results['versions']
    assert json.loads((finished / 'config.json').read_text())['parallel'] == 'jit'
    plots = {path.name for path in (finished / 'plots').iterdir()}
    drawn = 'curves', 'learning_rate', 'training_images', 'parameters', 'confusion_matrix'
    assert plots == {f'{name}.png' for name in drawn}


def test_finished_run_says_so_and_does_nothing(config, workdir, capsys):
    before = content(workdir)
    results = run(config, workdir, DEVICES)
    assert results == json.loads((workdir / 'results.json').read_text())
    assert 'is finished (3 epochs); use another --workdir' in capsys.readouterr().out
    assert content(workdir) == before


def test_finished_run_writes_a_lost_config_anew(config, workdir):
    before = (workdir / 'config.json').read_text()
    (workdir / 'config.json').unlink()
    run(config, workdir, DEVICES)
    assert (workdir / 'config.json').read_text() == before


def test_more_epochs_continue_a_finished_run(config, workdir, monkeypatch, capsys):
    config.epochs = 4
    finish = Training._finish

    def crash(*_):
        raise MemoryError

    monkeypatch.setattr(Training, '_finish', crash)
    with pytest.raises(MemoryError):
        run(config, workdir, DEVICES)
    assert 'config.epochs was 3, is 4' in capsys.readouterr().out
    monkeypatch.setattr(Training, '_finish', finish)
    # All is trained, but results.json is still that of three epochs.
    assert run(config, workdir, DEVICES)['epochs'] == 4
    assert len((workdir / 'metrics.jsonl').read_text().splitlines()) == 4


def test_another_precision_is_mentioned(config, workdir, monkeypatch, capsys):
    def end(*_):
        raise MemoryError

    config.epochs, config.precision = 4, 'bfloat16'
    monkeypatch.setattr(Training, '_epoch', end)
    with pytest.raises(MemoryError):
        run(config, workdir, DEVICES)
    assert 'config.precision was float32, is bfloat16 from here on' in capsys.readouterr().out


def test_another_config_is_refused_with_the_keys_that_differ(config, workdir):
    config.model.width, config.optimizer.momentum = 8, 0.8
    before = content(workdir)
    expected = 'config.model.width was 4, is 8; config.optimizer.momentum was 0.9, is 0.8'
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        run(config, workdir, DEVICES)
    assert content(workdir) == before


def test_run_with_a_damaged_checkpoint_continues_from_the_one_before(
    config, workdir, finished, assert_same_run
):
    folder = workdir / 'checkpoints' / 'last' / '18'
    for file in (folder / 'arrays').rglob('*'):
        if file.is_file():
            file.write_bytes(b'')
    (workdir / 'results.json').unlink()
    with pytest.raises(CheckpointError, match=r'last/18 cannot be read .*delete that folder to use step 12'):
        run(config, workdir, DEVICES)
    shutil.rmtree(folder)
    run(config, workdir, DEVICES)
    assert_same_run(finished, workdir)


def test_run_without_its_best_checkpoint_continues_from_the_one_before_or_says_so(
    config, workdir, finished, assert_same_run
):
    best = workdir / 'checkpoints' / 'best'
    assert sorted(path.name for path in best.iterdir()) == ['12', '18']
    shutil.rmtree(best / '18')
    (workdir / 'results.json').unlink()
    run(config, workdir, DEVICES)  # from step 12, of which there are both
    assert_same_run(finished, workdir)
    shutil.rmtree(best)
    config.epochs = 4
    with pytest.raises(CheckpointError, match=r'there is no \S*best/18 and no \S*best/12, which the'):
        run(config, workdir, DEVICES)


def test_data_that_has_changed_is_noticed(config, workdir):
    config.epochs, config.dataset.validation = 4, 1104
    _change_metadata(workdir, lambda metadata: metadata.update(train_images=300))
    with pytest.raises(CheckpointError, match=r'digits has changed since .* train_images was 300, is 333'):
        run(config, workdir, DEVICES)
    _change_metadata(workdir, lambda metadata: metadata['dataset'].update(version='0.9'))
    with pytest.raises(CheckpointError, match=r'train_images was 300, is 333; version was 0.9, is 1.0.0'):
        run(config, workdir, DEVICES)


def test_other_images_are_noticed_where_epochs_have_fewer_steps(config, workdir, monkeypatch):
    load = sources.load

    def load_fewer(*args, **keys):
        loaded = load(*args, **keys)
        fewer = sources.Split(*(part[:-40] for part in loaded.splits['train']))
        return replace(loaded, splits={**loaded.splits, 'train': fewer})

    monkeypatch.setattr(sources, 'load', load_fewer)
    config.epochs = 4
    with pytest.raises(CheckpointError, match=r'digits has changed since .* train_images was 333, is 293'):
        run(config, workdir, DEVICES)


def test_a_run_of_another_config_that_has_just_been_saved_is_not_continued(config, workdir, monkeypatch):
    monkeypatch.setattr('training.run.check_same_run', lambda *_: None)  # as if it had not been there then
    config.epochs, config.seed = 4, 5
    with pytest.raises(CheckpointError, match=r'another config: config\.seed was 0, is 5'):
        run(config, workdir, DEVICES)


def test_results_without_a_checkpoint_are_not_overwritten(config, workdir):
    shutil.rmtree(workdir / 'checkpoints' / 'last')
    before = content(workdir)
    with pytest.raises(CheckpointError, match='holds the results of a run, but not its checkpoints/last'):
        run(config, workdir, DEVICES)
    assert content(workdir) == before


def test_labels_that_have_changed_are_noticed(config, workdir, monkeypatch):
    """Which images are held out follows from them."""
    load = sources.load

    def load_changed(*args, **keys):
        loaded = load(*args, **keys)
        return replace(
            loaded,
            splits={name: s._replace(labels=np.roll(s.labels, 1)) for name, s in loaded.splits.items()},
        )

    monkeypatch.setattr(sources, 'load', load_changed)
    config.epochs = 4
    with pytest.raises(CheckpointError, match=r'train_checksum was .* of labels and names'):
        run(config, workdir, DEVICES)
    with pytest.raises(DataError, match='digits has other images in train than when the run held'):
        evaluate(workdir, split='val', devices=DEVICES)
    assert evaluate(workdir, split='test', devices=DEVICES)['count'] == 360


def _change_metadata(workdir, change):
    file = workdir / 'checkpoints' / 'last' / '18' / 'metadata' / 'metadata'
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


def test_workdir_in_which_another_process_trains_is_refused(config, workdir):
    config.epochs = 4
    before = content(workdir)
    with (
        locked(workdir / '.lock', busy=None),
        pytest.raises(CheckpointError, match='another process is training in'),
    ):
        run(config, workdir, DEVICES)
    assert content(workdir) == before


def test_workdir_that_cannot_be_written_to_is_named(config, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(CheckpointError, match='/file/run: cannot be written to'):
        run(config, tmp_path / 'file' / 'run', DEVICES)


def test_run_without_its_last_metrics_continues_from_the_checkpoint_before_or_says_so(
    config, workdir, finished, assert_same_run
):
    metrics = workdir / 'metrics.jsonl'
    metrics.write_text(''.join(metrics.read_text().splitlines(keepends=True)[:2]))
    (workdir / 'results.json').unlink()
    run(config, workdir, DEVICES)  # from step 12, the end of the second epoch
    assert_same_run(finished, workdir)
    metrics.unlink()
    config.epochs = 4
    with pytest.raises(CheckpointError, match=r'there is no line 1 of \S*metrics\.jsonl, which the'):
        run(config, workdir, DEVICES)


@pytest.mark.parametrize(('batch_size', 'sync', 'devices'), [(1, True, 1), (2, False, 2), (166, True, 1)])
def test_batch_norm_over_a_single_value_is_refused(config, tmp_path, batch_size, sync, devices):
    """The smallest images are of one pixel; 333 are 2 x 166 + 1."""
    config.model.name, config.model.stage_sizes = 'resnet', (1, 1, 1, 1)
    config.batch_size, config.batch_norm.sync, config.dataset.drop_last = batch_size, sync, batch_size < 166
    with pytest.raises(ConfigError, match=r'leaves single images .*, and .*bn1 needs more than one value'):
        run(config, tmp_path / 'run', jax.devices()[:devices])


@pytest.mark.parametrize(
    ('section', 'key', 'value', 'devices', 'expected'),
    [
        (
            '',
            'batch_size',
            60,
            8,
            'must be divisible by 8 (8 devices x 1 accumulation steps); the nearest are 56',
        ),
        ('', 'batch_size', 4, 8, 'the nearest are 8'),
        (
            'optimizer',
            'accumulation_steps',
            3,
            1,
            'must be divisible by 3 (1 devices x 3 accumulation steps)',
        ),
        ('', 'batch_size', 512, 1, 'larger than the 333 training images'),
        ('dataset', 'drop_last', False, 8, 'the last batch has 13 images, which do not divide by 8'),
        ('augmentation', 'crop_padding', 9, 1, 'too large for images of 8 pixels'),
        ('augmentation', 'cutout', 9, 1, 'larger than the images, which have 8 pixels'),
    ],
)
def test_what_does_not_fit_devices_or_data_is_refused(
    config, tmp_path, section, key, value, devices, expected
):
    config.dataset.drop_last = True
    (config[section] if section else config)[key] = value
    with pytest.raises(ConfigError, match=re.escape(expected)):
        run(config, tmp_path / 'run', jax.devices()[:devices])
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('keys', 'error', 'named'),
    [
        ({'max_parameters': 397}, ConfigError, 'max_parameters=397: the model has 398, 1 too many'),
        (
            {'stage_sizes': (1,) * 5, 'shortcut_kernel_sizes': (2,) * 5},
            ConfigError,
            'not fit images of 8 x 8',
        ),
        ({'max_parameters': 398}, RuntimeError, 'images were read'),
    ],
)
def test_a_model_that_does_not_suit_is_refused_before_images_are_read(
    config, keys, error, named, monkeypatch
):
    def read(*args):
        raise RuntimeError('images were read')

    monkeypatch.setattr(sources, 'Split', read)
    config.model.update(keys)
    with pytest.raises(error, match=named):
        create_experiment(resolve(config, DEVICES), DEVICES)


def test_a_model_too_large_for_its_limit_is_refused_before_a_download(config, tmp_path, monkeypatch):
    config.dataset.update({'name': 'cifar100', 'data_dir': str(tmp_path)})
    config.model.max_parameters = 700
    monkeypatch.setattr(prepare.cifar, 'prepare', None)
    with pytest.raises(ConfigError, match='max_parameters=700: the model has 920, 220 too many'):
        create_experiment(resolve(config, DEVICES), DEVICES)


@pytest.mark.parametrize(('several', 'given'), [(False, '[7] outputs'), (True, 'a tuple')])
def test_a_model_with_other_outputs_than_classes_is_refused(config, monkeypatch, several, given):
    class Seven(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            logits = nn.Dense(7)(images.reshape(len(images), -1))
            return (logits, images) if several else logits

    monkeypatch.setitem(registry.MODELS, 'seven', Seven)
    config.model.name = 'seven'
    with pytest.raises(ConfigError, match=re.escape(f'gives {given} for an image, where 10 classes want')):
        create_experiment(resolve(config, DEVICES), DEVICES)


@pytest.mark.parametrize(
    ('name', 'line', 'error'), [('wrong', 'images + None', 'unsupported'), ('odd', 'self.scope.x', "'Scope'")]
)
def test_an_error_in_a_model_of_ones_own_is_placed(config, tmp_path, monkeypatch, name, line, error):
    source = 'import flax.linen as nn\n\n\nclass Net(nn.Module):\n'
    source += f'    def __call__(self, images, *, train):\n        return {line}\n'
    (tmp_path / f'{name}.py').write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    config.model.name = f'{name}:Net'
    with pytest.raises(ConfigError, match=rf'{name}:Net: {error} .*{name}\.py, line 6\)'):
        create_experiment(resolve(config, DEVICES), DEVICES)


def test_a_validation_split_that_is_not_used_is_mentioned(config, tmp_path, capsys, monkeypatch):
    load = sources.load
    monkeypatch.setattr(Training, 'run', lambda _: {})
    monkeypatch.setattr('training.run._report', lambda *_: {})
    monkeypatch.setattr(
        sources, 'load', lambda *args, **keys: replace(load(*args, **keys), other_splits=('val', 'ver_data'))
    )
    config.epochs, config.schedule.warmup_epochs = 1, 1.0
    run(config, tmp_path, DEVICES)
    said = capsys.readouterr().out
    assert (
        'the split val instead: --config.dataset.validation=0 --config.dataset.validation_split=val' in said
    )
    assert 'warm-up shortened from 1 to 0.5 epochs' in said
    assert 'train loss is that with label smoothing' in said


def test_shown_training_images_do_not_depend_on_the_devices(config):
    config.batch_size = 64
    one, eight = (
        augmented_images(create_experiment(resolve(config, devices), devices), 32)
        for devices in (DEVICES, jax.devices())
    )
    assert (one[0] == eight[0]).all()
    assert one[0].shape == (32, 8, 8, 1)
    assert one[1] == eight[1]


def test_shown_training_images_include_what_follows_normalization(config):
    def shown(**keys):
        config.augmentation.update({'crop_padding': 0, 'flip': False, **keys})
        return augmented_images(create_experiment(resolve(config, DEVICES), DEVICES), 32)

    config.dataset.normalization = 'half'
    plain, names = shown()
    erased, _ = shown(cutout=8)
    gray = np.isclose(erased, 0.5)
    assert gray.any((1, 2, 3)).all()
    np.testing.assert_allclose(erased[~gray], plain[~gray], atol=1e-6)
    mixed, mixed_names = shown(cutout=0, mixup_alpha=1.0)
    own = (mixed - plain[np.arange(32) ^ 1])[0].sum() / (plain - plain[np.arange(32) ^ 1])[0].sum()
    assert 0.01 < own < 0.99
    assert mixed_names == (names if own > 0.5 else [names[i ^ 1] for i in range(32)])
