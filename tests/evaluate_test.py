"""What evaluate.py prints and writes, whatever it is asked about."""

import csv
import json

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

import evaluate
from configs import default
from input_pipeline import sources

DEVICES = jax.devices()[:1]


@pytest.fixture
def evaluated(config, workdir, monkeypatch, capsys):
    """Evaluates with the given flags, and returns what is printed."""

    def evaluated(*arguments):
        evaluate.flags.FLAGS.unparse_flags()
        with flagsaver.flagsaver():
            evaluate.flags.FLAGS(['evaluate.py', f'--workdir={workdir}', *arguments])
            evaluate._check_flags()
            evaluate._run()
        return capsys.readouterr().out

    monkeypatch.setattr(jax, 'devices', lambda: DEVICES)
    return evaluated


@pytest.fixture
def split():
    config = default.get_config().dataset
    config.name = 'digits'
    return sources.load(config, ('test',)).splits['test']


def test_a_split_with_its_predictions(evaluated, workdir, tmp_path, monkeypatch):
    looked_in, load = [], sources.load
    monkeypatch.setattr(sources, 'load', lambda c, *a, **k: looked_in.append(c.data_dir) or load(c, *a, **k))
    results = json.loads((workdir / 'results.json').read_text())
    path = tmp_path / 'predictions.csv'
    printed = evaluated(f'--predictions={path}', '--data_dir=/moved')
    assert f'digits test, 360 images, checkpoint best (step {6 * results["best_epoch"]})\n' in printed
    assert f'loss                {results["test_loss"]:.4f}\n' in printed
    assert f'top-1 accuracy      {results["test_accuracy"]:.2%}' in printed
    assert 'top-5 accuracy' in printed
    assert 'lowest of a class' in printed
    assert str(path) in printed
    assert len(path.read_text().splitlines()) == 361
    assert looked_in == ['/moved']


def test_a_folder_of_images(evaluated, split, tmp_path):
    (tmp_path / 'photos').mkdir()
    for index, image in enumerate(split.images[:21]):
        Image.fromarray(image[..., 0]).save(tmp_path / 'photos' / f'{index:02}.png')
    path = tmp_path / 'predictions.csv'
    printed = evaluated(f'--folder={tmp_path}/photos').splitlines()
    assert [line.split()[-1] for line in printed[:20]] == [f'{index:02}.png' for index in range(20)]
    assert printed[20:] == ['… of 21 images; --predictions=FILE.csv writes all']
    assert evaluated(f'--folder={tmp_path}/photos', f'--predictions={path}').splitlines() == [
        *printed[:20],
        '… of 21 images',
        f'predictions in {path}',
    ]
    with path.open() as file:
        assert [row['class'] for row in csv.DictReader(file)][:20] == [
            line.split()[1] for line in printed[:20]
        ]


def test_features(evaluated, tmp_path):
    printed = evaluated(f'--features={tmp_path}/features.npy', '--checkpoint=last')
    features = np.load(tmp_path / 'features.npy')
    assert printed == f'360 features of {features.shape[1]} dimensions in {tmp_path}/features.npy\n'


def test_pairs_with_their_similarities(evaluated, tmp_path):
    (tmp_path / 'pairs.txt').write_text('test-0 test-1 0\ntest-0 test-2 1\ntest-1 test-3 0\n')
    scores = tmp_path / 'scores.csv'
    printed = evaluated(f'--pairs={tmp_path}/pairs.txt', '--split=test', f'--scores={scores}', '--flip')
    assert 'pairs.txt, 3 pairs, checkpoint best (step ' in printed
    assert 'EER' in printed
    assert printed.endswith(f'similarities in {scores}\n')
    assert len(scores.read_text().splitlines()) == 4


def test_distorted_images(evaluated, split, tmp_path):
    folder = tmp_path / 'distorted'
    folder.mkdir()
    np.save(folder / 'none.npy', np.tile(split.images, (5, 1, 1, 1)))
    np.save(folder / 'labels.npy', split.labels)
    first, distortion, mean, *_ = evaluated(f'--distortions={folder}').splitlines()
    assert first.startswith(f'{folder}, 1,800 images, checkpoint best (step ')
    assert distortion.split()[0] == 'none'
    assert len(set(distortion.replace('by severity', '').split()[1:])) == 1  # as good in all severities
    assert mean.split() == ['mean', distortion.split()[1]]
