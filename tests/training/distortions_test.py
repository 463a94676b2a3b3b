import csv
import json
from dataclasses import replace
from unittest.mock import Mock

import jax
import numpy as np
import pytest

from configs import default
from input_pipeline import DataError, sources
from training.distortions import evaluate_distortions
from training.evaluation import evaluate

pytestmark = pytest.mark.usefixtures('config')
DEVICES = jax.devices()[:1]
TEST = 360  # images


@pytest.fixture
def folder(finished, tmp_path):
    """The test images as they are, and fading to black, in the order of their ids."""
    folder = tmp_path / 'distorted'
    folder.mkdir()
    images, labels, _ = digits()
    np.save(folder / 'none.npy', np.tile(images, (5, 1, 1, 1)))
    np.save(folder / 'fade.npy', np.concatenate([images // (severity + 1) for severity in range(5)]))
    np.save(folder / 'labels.npy', labels)
    return folder


def digits():
    config = default.get_config().dataset
    config.name = 'digits'
    return sources.load(config).splits['test']


def test_undistorted_images_have_the_accuracy_of_test(workdir, folder):
    result = evaluate_distortions(workdir, folder, devices=DEVICES)
    clean = evaluate(workdir, devices=DEVICES)['accuracy']
    assert result['accuracies']['none'] == pytest.approx([clean] * 5)
    assert result['accuracies']['fade'][0] == pytest.approx(clean)
    assert result['accuracies']['fade'][4] < clean
    assert result['accuracy'] == pytest.approx(np.mean(list(result['accuracies'].values())))
    path = workdir / 'evaluations' / 'distortions-best-distorted.json'
    assert json.loads(path.read_text()) == result

    np.save(folder / 'labels.npy', np.tile(digits().labels, 5))
    assert evaluate_distortions(workdir, folder, devices=DEVICES) == result


def load_shuffled(monkeypatch, name):
    """Makes the test split one of another order, whose ids are `name(index)` of its first one."""
    images, labels, _ = digits()
    rows, load = np.random.default_rng(0).permutation(TEST), sources.load

    def load_test(*arguments, **keys):
        split = sources.Split(images[rows], labels[rows], np.array([name(row) for row in rows]))
        return replace(load(*arguments, **keys), splits={'test': split})

    monkeypatch.setattr(sources, 'load', load_test)


def test_ids_tell_the_original_order(workdir, folder, monkeypatch):
    expected = evaluate_distortions(workdir, folder, devices=DEVICES)
    (folder / 'labels.npy').unlink()
    load_shuffled(monkeypatch, lambda row: f'test_{row:05d}')
    result = evaluate_distortions(workdir, folder, devices=DEVICES)
    assert result.pop('clean_accuracy') == pytest.approx(expected['accuracies']['none'][0])
    assert result == expected


@pytest.mark.parametrize(
    ('name', 'images', 'test_split', 'expected'),
    [
        (lambda row: f'test_cat_s_{2 * row}', TEST, 'test', 'the ids of test do not tell its original order'),
        (lambda row: f'test_{row}', 2, 'test', 'test has 360 labels for the 10 images of fade.npy'),
        (str, TEST, '', 'this run has no test split'),
        (None, TEST, 'test', 'and of test: not here'),
    ],
)
def test_unlabelled_images_are_predicted(
    workdir, folder, tmp_path, monkeypatch, capsys, name, images, test_split, expected
):
    (folder / 'labels.npy').unlink()
    for path in folder.glob('*.npy'):
        np.save(path, np.load(path)[: 5 * images])
    if name is None:
        monkeypatch.setattr(sources, 'load', Mock(side_effect=DataError('not here')))
    else:
        load_shuffled(monkeypatch, name)
    config = json.loads((workdir / 'config.json').read_text())
    config['dataset']['test_split'] = test_split
    (workdir / 'config.json').write_text(json.dumps(config))
    with pytest.raises(DataError, match=f'accuracy is unknown, only --predictions.*{expected}'):
        evaluate_distortions(workdir, folder, devices=DEVICES)
    result = evaluate_distortions(workdir, folder, predictions=tmp_path / 'a.csv', devices=DEVICES)
    assert 'accuracy' not in result
    assert len((tmp_path / 'a.csv').read_text().splitlines()) == 1 + 10 * images
    assert not (workdir / 'evaluations').exists()
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_predictions_are_the_same_on_eight_devices(workdir, folder, tmp_path, parallel):
    rows = []
    for devices in (DEVICES, jax.devices()):
        path = tmp_path / f'{len(devices)}.csv'
        evaluate_distortions(workdir, folder, predictions=path, devices=devices)
        with path.open() as file:
            rows.append(list(csv.reader(file)))
        config = json.loads((workdir / 'config.json').read_text())
        (workdir / 'config.json').write_text(json.dumps(config | {'parallel': parallel}))
    assert rows[0] == rows[1]
    assert rows[0][0] == ['id', 'label']
    assert [name for name, _ in rows[0][1 :: 5 * TEST]] == ['fade_1_0', 'none_1_0']
    assert (rows[0][-1][0], len(rows[0])) == (f'none_5_{TEST - 1}', 1 + 10 * TEST)


@pytest.mark.parametrize(
    ('name', 'content', 'expected'),
    [
        ('a', np.zeros((5, 8, 8, 1)), r'a\.npy: expected uint8\[images, 8, 8, 1\]; found float64\[5, 8'),
        ('a', np.zeros((5, 8, 8, 3), np.uint8), r'found uint8\[5, 8, 8, 3\]'),
        ('a', np.zeros((7, 8, 8, 1), np.uint8), r'a\.npy: 7 images are not as many in each of 5 severities'),
        ('a', b'no array', r'a\.npy cannot be read as an array'),
        ('a', b'PK\x05\x06' + bytes(18), r'a\.npy cannot be read as an array: an archive'),
        ('labels', np.full(TEST, 10), r'labels\.npy: expected integers from 0 to 9'),
        ('labels', np.zeros(7, int), r'labels\.npy: 7 labels for the 1,800 images of fade\.npy'),
    ],
)
def test_bad_files_are_named(workdir, folder, name, content, expected):
    path = folder / f'{name}.npy'
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(DataError, match=expected):
        evaluate_distortions(workdir, folder, devices=DEVICES)


def test_folder_without_files_is_named(workdir, tmp_path):
    with pytest.raises(DataError, match=r'--distortions=.*there is no such folder, or no \.npy file'):
        evaluate_distortions(workdir, tmp_path / 'nowhere', devices=DEVICES)
