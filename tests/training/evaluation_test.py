import csv
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from input_pipeline import DataError, sources
from training import CheckpointError, ConfigError, NonFiniteLoss
from training.evaluation import evaluate, find_loader, saved_config
from training.experiment import Experiment, create_experiment
from training.parallel import Execution
from training.resolve import resolve
from training.run import run

pytestmark = pytest.mark.usefixtures('config')
DEVICES = jax.devices()[:1]


def change_loaded(monkeypatch, change):
    """Has digits, with some of their attributes changed, stand for every dataset."""
    load = sources.load

    def load_changed(config, splits, *, check, **keys):
        config = ConfigDict({**config, 'name': 'digits'})
        return change(load(config, splits, check=lambda dataset: check(change(dataset)), **keys))

    monkeypatch.setattr(sources, 'load', load_changed)


def results(workdir):
    return json.loads((workdir / 'results.json').read_text())


def test_best_checkpoint_gives_the_results_of_the_run(workdir):
    result = evaluate(workdir, devices=DEVICES, predictions=workdir / 'new' / 'predictions.csv')
    assert result['accuracy'] == results(workdir)['test_accuracy']
    assert result['loss'] == pytest.approx(results(workdir)['test_loss'])
    assert (result['count'], result['split'], result['dataset']) == (360, 'test', 'digits')
    assert json.loads((workdir / 'evaluations' / 'best-digits-test.json').read_text())['count'] == 360

    with (workdir / 'new' / 'predictions.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['id'] for row in rows] == [f'test-{index}' for index in range(360)]
    assert np.mean([row['label'] == row['predicted'] for row in rows]) == result['accuracy']
    assert all(0.1 <= float(row['confidence']) <= 1 for row in rows)


def test_what_was_prepared_of_a_folder_will_do_elsewhere(workdir):
    saved = json.loads((workdir / 'config.json').read_text())
    saved['dataset']['folder'] = str(workdir / 'gone')
    (workdir / 'config.json').write_text(json.dumps(saved))
    assert saved_config(workdir).dataset.folder == str(workdir / 'gone')
    assert saved_config(workdir, data_dir='there').dataset.folder == ''
    (workdir / 'gone').mkdir()
    assert saved_config(workdir, data_dir='there').dataset.folder == str(workdir / 'gone')


def test_only_the_split_in_question_is_loaded(workdir, monkeypatch):
    asked, load = [], sources.load
    monkeypatch.setattr(
        sources, 'load', lambda c, splits, **keys: asked.append(splits) or load(c, splits, **keys)
    )
    evaluate(workdir, split='test', devices=DEVICES)
    assert asked == [('test',)]


def test_validation_is_what_was_held_out(workdir):
    best = results(workdir)['best_epoch'] * 6
    result = evaluate(workdir, split='val', checkpoint='best', devices=DEVICES)
    assert result['accuracy'] == pytest.approx(results(workdir)['val_accuracy'])
    assert (result['count'], result['step']) == (1104, best)


def test_last_checkpoint_on_train_and_eight_devices(workdir):
    """The batches of training do not divide among eight, which does not matter here."""
    eight = evaluate(workdir, split='train', checkpoint='last', devices=jax.devices())
    one = evaluate(workdir, split='train', checkpoint='18', devices=DEVICES)
    assert eight['loss'] == pytest.approx(one['loss'], rel=1e-5)
    assert eight['count'] == 333


def test_missing_checkpoints_and_runs_are_named(workdir, tmp_path):
    expected = "holds no checkpoint '7'; there is last: step 12, 18; best: step"
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        evaluate(workdir, checkpoint='7', devices=DEVICES)
    with pytest.raises(CheckpointError, match=r'holds no run: there is no .*config\.json'):
        evaluate(tmp_path / 'elsewhere', devices=DEVICES)


def test_file_that_cannot_be_written_is_met_first(workdir, tmp_path):
    for path in (tmp_path, tmp_path / 'finished' / 'config.json' / 'a.csv'):
        with pytest.raises(DataError, match=f'--predictions={path}: cannot be written'):
            evaluate(tmp_path / 'nothing', predictions=path, devices=DEVICES)


def test_split_that_is_not_there_is_named(workdir):
    with pytest.raises(DataError, match="digits has no split 'extra'; it has train, test"):
        evaluate(workdir, split='extra', devices=DEVICES)


def test_split_called_val_is_the_datasets_own_where_none_was_held_out(config, workdir, monkeypatch):
    saved = json.loads((workdir / 'config.json').read_text())
    saved['dataset']['validation'] = 0
    (workdir / 'config.json').write_text(json.dumps(saved))
    loaded = sources.load(config.dataset)
    monkeypatch.setitem(loaded.splits, 'val', loaded.splits['test'])
    monkeypatch.setattr(sources, 'load', lambda *args, **keys: loaded)
    assert evaluate(workdir, split='val', devices=DEVICES)['accuracy'] == results(workdir)['test_accuracy']


def test_damaged_config_is_named(workdir):
    (workdir / 'config.json').write_text('{"epochs": 3,')
    with pytest.raises(CheckpointError, match=r'config\.json is damaged .*run train\.py there again'):
        evaluate(workdir, devices=DEVICES)


def test_outputs_that_are_not_finite_are_named(workdir, monkeypatch):
    def overflow(self):
        return lambda variables, batch: jnp.log(-1.0 + 0 * batch['image'][:, 0, :, 0])

    monkeypatch.setattr(Experiment, 'predict_step', overflow)
    with pytest.raises(NonFiniteLoss, match='no finite outputs for 360 of 360 images, first test-0:'):
        evaluate(workdir, devices=DEVICES)


def test_images_without_labels_are_not_evaluated_only_classified(config, workdir, monkeypatch):
    split = sources.Split(np.zeros((2, 8, 8, 1), np.uint8), np.full(2, -1), np.array(['a', 'b']))
    loaded = sources.load(config.dataset)
    monkeypatch.setitem(loaded.splits, 'pairs', split)
    monkeypatch.setattr(sources, 'load', lambda *args, **keys: loaded)
    with pytest.raises(DataError, match='Split pairs of digits has images without labels'):
        evaluate(workdir, split='pairs', devices=DEVICES)
    predictions = workdir / 'predictions.csv'
    result = evaluate(workdir, split='pairs', predictions=predictions, devices=DEVICES)
    assert (result['count'], 'accuracy' in result) == (2, False)
    assert [(row['id'], row['label']) for row in csv.DictReader(predictions.open())] == [
        ('a', '-1'),
        ('b', '-1'),
    ]


def test_what_is_found_is_returned_where_it_cannot_be_kept(workdir, capsys):
    (workdir / 'evaluations').write_text('in the way')
    assert evaluate(workdir, devices=DEVICES)['accuracy'] == results(workdir)['test_accuracy']
    assert f'warning: {workdir} cannot be written to' in capsys.readouterr().err


def test_keys_that_are_newer_than_the_run_have_their_defaults(workdir):
    saved = json.loads((workdir / 'config.json').read_text())
    del saved['model']['se'], saved['batch_norm']
    (workdir / 'config.json').write_text(json.dumps(saved))
    assert evaluate(workdir, devices=DEVICES)['accuracy'] == results(workdir)['test_accuracy']


def test_a_model_that_cannot_be_imported_is_named(workdir):
    saved = json.loads((workdir / 'config.json').read_text())
    saved['model']['name'] = 'no_such:Net'
    (workdir / 'config.json').write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match=r"model\.name=no_such:Net: .*No module named 'no_such'"):
        evaluate(workdir, devices=DEVICES)


def test_numbered_classes_are_taken_in_their_order(config, workdir, monkeypatch, capsys):
    loaded = sources.load(config.dataset)
    experiment = SimpleNamespace(
        dataset=replace(loaded, class_names=tuple('abcdefghij')), config=config, execution=Execution('jit')
    )
    monkeypatch.setattr(sources, 'load', lambda *args, **keys: keys['check'](loaded) or loaded)
    assert find_loader(experiment, 'digits_twin', 'test').size == 360
    assert 'digits_twin only numbers its classes: in the order of digits' in capsys.readouterr().err
    with pytest.raises(DataError, match=r'mnist has 10 classes \(0, 1, 2, …\), but'):
        find_loader(experiment, 'mnist', 'test')


def test_dataset_of_other_classes_is_refused(workdir, monkeypatch):
    change_loaded(monkeypatch, lambda dataset: replace(dataset, class_names=('cat', 'dog')))
    with pytest.raises(DataError, match=r'other has 2 classes \(cat, dog.*the 10 of digits \(0, 1, 2'):
        evaluate(workdir, dataset='other', devices=DEVICES)


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        ('0123465789', '10, then 10; number 5 is 6, was 5'),
        ('0123456789x', '11, then 10; number 10 is x, was none'),
    ],
)
def test_changed_classes_are_noticed(config, workdir, monkeypatch, names, expected):
    change_loaded(monkeypatch, lambda dataset: replace(dataset, class_names=tuple(names)))
    config.epochs = 4
    for start in (lambda: evaluate(workdir, devices=DEVICES), lambda: run(config, workdir, DEVICES)):
        with pytest.raises(CheckpointError, match=f'digits has other classes than when .*{expected}'):
            start()


def test_images_that_the_model_does_not_take_are_refused(config, monkeypatch):
    config.model.name = 'simple_cnn'
    experiment = create_experiment(resolve(config, DEVICES), DEVICES)
    change_loaded(monkeypatch, lambda dataset: replace(dataset, name='larger', image_shape=(16, 16, 1)))
    with pytest.raises(
        DataError, match=r'larger has images of 16 x 16 x 1, which .* 8 x 8 x 1, does not take'
    ):
        find_loader(experiment, 'larger', 'test')


def test_dataset_of_the_same_classes_is_evaluated(workdir, monkeypatch):
    change_loaded(monkeypatch, lambda dataset: dataset)
    result = evaluate(workdir, dataset='twin', devices=DEVICES)
    assert result['accuracy'] == results(workdir)['test_accuracy']
    assert (workdir / 'evaluations' / 'best-twin-test.json').exists()
