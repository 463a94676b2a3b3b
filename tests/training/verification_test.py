import csv
import json
import os
import signal
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from input_pipeline import DataError, sources
from training import pairs, verification
from training.checkpoints import Checkpoints
from training.console import Console
from training.evaluation import Evaluator, saved_config
from training.interruption import Interrupted
from training.run import run
from training.steps import create_feature_step
from training.verification import cosine_similarities, export_features, verify

DEVICES = jax.devices()[:1]
PAIRS = [(0, 1, 0), (0, 2, 1), (1, 3, 0), (0, 3, 1), (2, 3, 1), (4, 5, 0), (4, 4, 1), (0, 5, 0)]


def lines(labelled):
    return ''.join(f'test/test-{a} test-{b} {same if labelled else ""}\n' for a, b, same in PAIRS)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Holds labelled and unlabelled pairs."""
    folder = tmp_path_factory.mktemp('pairs')
    (folder / 'val_pairs.txt').write_text(lines(labelled=True))
    (folder / 'test_pairs.txt').write_text(lines(labelled=False))
    return folder


@pytest.fixture(scope='module')
def changes(folder):
    """What a run needs to look at pairs."""
    return {'verification': {'pairs': str(folder / 'val_pairs.txt'), 'split': 'test', 'resamples': 20}}


@pytest.fixture(scope='module')
def workdir(finish, changes):
    """A finished run that looked at the pairs."""
    return finish('verified', **changes)


def read(workdir):
    records = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return records, json.loads((workdir / 'results.json').read_text())


def test_run_records_pairs_and_keeps_the_best_epoch(workdir):
    records, results = read(workdir)
    scores = [(record['verification_accuracy'], -record['verification_eer']) for record in records]
    best = scores.index(max(scores))
    assert results['best_verification_epoch'] == best + 1
    assert results['best_verification_accuracy'] == records[best]['verification_accuracy']
    assert results['last_verification_eer'] == records[-1]['verification_eer']
    assert set(results['last_verification']['intervals']) >= {'eer', 'auc', 'accuracy', 'tpr_at_fpr_1e-4'}
    assert Checkpoints(workdir / 'checkpoints').steps('best_verification') == [6 * (best + 1)]
    drawn = {path.name for path in (workdir / 'plots').iterdir()}
    assert drawn >= {'verification.png', 'roc.png', 'similarities.png', 'hardest_pairs.png'}


@pytest.mark.usefixtures('config')
@pytest.mark.parametrize(
    ('checkpoint', 'parallel', 'devices'),
    [('best_verification', 'jit', 1), ('last', 'jit', 8), ('last', 'pmap', 2)],
)
def test_checkpoint_gives_the_results_of_the_run(workdir, folder, monkeypatch, checkpoint, parallel, devices):
    config = saved_config(workdir)
    config.parallel = parallel
    monkeypatch.setattr(verification, 'saved_config', lambda *_: config)
    pairs = str(folder / 'val_pairs.txt')
    result = verify(workdir, pairs=pairs, checkpoint=checkpoint, devices=jax.devices()[:devices])
    expected = read(workdir)[1][f'{checkpoint.split("_")[0]}_verification']
    assert result['intervals'].keys() == expected.pop('intervals').keys()
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert json.loads((workdir / 'evaluations' / f'{checkpoint}-val_pairs.json').read_text()) == result


def test_interrupted_run_keeps_the_best_pairs(
    workdir, changes, config, tmp_path, monkeypatch, assert_same_run
):
    start_epoch, signals = Console.start_epoch, [3]

    def terminate(console, epoch, *rest):
        start_epoch(console, epoch, *rest)
        if epoch in signals:
            signals.remove(epoch)
            os.kill(os.getpid(), signal.SIGTERM)

    config.update(changes)
    config.checkpoint.every_epochs = 0
    monkeypatch.setattr(Console, 'start_epoch', terminate)
    with pytest.raises(Interrupted):
        run(config, tmp_path / 'verified', DEVICES)
    run(config, tmp_path / 'verified', DEVICES)
    assert_same_run(workdir, tmp_path / 'verified', names=('last', 'best', 'best_verification'))


@pytest.mark.usefixtures('config')
def test_unlabelled_pairs_give_a_file_of_scores(workdir, folder, tmp_path, monkeypatch):
    embedded, outputs = [], Evaluator.outputs
    monkeypatch.setattr(Evaluator, 'outputs', lambda *args: embedded.append(outputs(*args)) or embedded[-1])
    scores = tmp_path / 'new' / 'scores.csv'
    result = verify(workdir, pairs=str(folder / 'test_pairs.txt'), scores=scores, flip=True, devices=DEVICES)
    assert result['pairs'] == len(PAIRS)
    assert [len(features) for features in embedded] == [6]  # each image once
    with scores.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ['ID', 'Label']
    assert [int(row['ID']) for row in rows] == list(range(len(PAIRS)))
    assert float(rows[6]['Label']) == pytest.approx(1)  # an image and itself
    expected = cosine_similarities(embedded[0], np.array(PAIRS)[:, :2])
    np.testing.assert_allclose([float(row['Label']) for row in rows], expected, atol=1e-8)
    with pytest.raises(DataError, match=r'these pairs have no labels 0 or 1; --scores='):
        verify(workdir, pairs=str(folder / 'test_pairs.txt'), devices=DEVICES)


@pytest.mark.usefixtures('config')
def test_pairs_of_another_folder_are_resized_and_compared(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'load', None)  # the run's own dataset may be gone
    for name, size in (('a b.png', (8, 8)), ('c.png', (8, 8)), ('d.jpg', (40, 24))):
        Image.new('RGB', size, 'gray').save(tmp_path / name)
    (tmp_path / 'own.csv').write_text(f'left,right\n{tmp_path.name}/a b.png,./c.png\nc.png,d.jpg\n')
    own = {'pairs': 'own.csv', 'folder': str(tmp_path), 'scores': tmp_path / 'a.csv', 'devices': DEVICES}
    verify(workdir, **own)
    scores = [float(line.split(',')[1]) for line in (tmp_path / 'a.csv').read_text().splitlines()[1:]]
    assert scores == pytest.approx([1, 1], abs=1e-4)
    (tmp_path / 'labelled.txt').write_text('d.jpg c.png 1\nd.jpg d.jpg 0\n')
    result = verify(workdir, **{**own, 'pairs': 'labelled.txt'})
    assert result['images'] == str(tmp_path)
    assert (workdir / 'evaluations' / f'best-labelled-{tmp_path.name}.json').exists()
    (tmp_path / 'd.jpg').write_text('no image')
    with pytest.raises(DataError, match=r'd\.jpg cannot be read: no image'):
        verify(workdir, **own)
    (tmp_path / 'd.jpg').unlink()
    with pytest.raises(DataError, match=r"own\.csv, line 3: there is no image 'd\.jpg' in "):
        verify(workdir, **own)
    with pytest.raises(DataError, match=r'--folder=/none: there is no such folder'):
        verify(workdir, **{**own, 'folder': '/none'})


def test_photographs_need_a_model_of_square_images(tmp_path):
    found = pairs.Pairs(tmp_path, [1], [('a.png', 'b.png')], None, None)
    with pytest.raises(DataError, match=r'takes images of 178 x 218 pixels.*--split'):
        pairs.read_images(found, tmp_path, (218, 178, 3))


@pytest.mark.usefixtures('config')
def test_features_are_exported_with_their_ids(workdir, tmp_path):
    features = export_features(workdir, tmp_path / 'test.npy', devices=DEVICES)
    np.testing.assert_array_equal(np.load(tmp_path / 'test.npy'), features)
    assert (features.shape, features.dtype) == ((360, 4), np.float32)
    ids = (tmp_path / 'test.ids.txt').read_text().splitlines()
    assert (ids[0], ids[-1], len(ids)) == ('test-0', 'test-359', 360)
    with pytest.raises(DataError, match=r'must end in \.npy'):
        export_features(workdir, tmp_path / 'test.txt', devices=DEVICES)


class Columns(nn.Module):
    """Its features are the columns of the image."""

    def features(self, images, *, train):
        return images[:, 0, :, 0]


def test_flip_averages_an_image_and_its_mirror_image():
    images = jnp.array([[0, 255, 51]], jnp.uint8).reshape(1, 1, 3, 1)
    for flip, expected in ((False, [0, 1, 0.2]), (True, [0.1, 1, 0.1])):
        step = create_feature_step(Columns(), normalize=lambda x: x, flip=flip)
        np.testing.assert_allclose(step({}, {'image': images})[0], expected, atol=1e-6)


def test_similarity_is_the_cosine():
    features = np.array([[3, 4], [-6, -8], [4, -3], [0, 0], [1e-3, 0]], np.float32)
    rows = np.array([[0, 0], [0, 1], [0, 2], [0, 3], [0, 4]])
    np.testing.assert_allclose(cosine_similarities(features, rows), [1, -1, 0, 0, 0.6], atol=1e-7)


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (None, r'config\.verification\.pairs=.*val_pairs\.txt: there is no /.*--config\.verification\.pairs'),
        ('test-0 test-1\n', 'have no labels 0 or 1'),
        ('test-0 test-1 1\n', r'of 1 pairs 1 are genuine \(1\)'),
        ('test-0 test-1 1 1\ntest-0 test-1 0 1\n', 'of 0 pairs outside of fold 1'),
    ],
)
def test_pairs_are_checked_before_data_are_loaded(config, tmp_path, content, expected):
    config.verification.pairs = str(tmp_path / 'val_pairs.txt')
    config.dataset.name = 'not_prepared'
    if content is not None:
        Path(config.verification.pairs).write_text(content)
    with pytest.raises(DataError, match=expected):
        run(config, tmp_path / 'run', DEVICES)


def test_missing_split_of_pairs_is_named_before_images_are_read(config, changes, tmp_path, monkeypatch):
    config.update(changes)
    config.verification.split = 'ver_data'
    monkeypatch.setattr(sources, 'Split', None)
    with pytest.raises(DataError, match=r"no split 'ver_data'; it has train, test\. .*verification\.split"):
        run(config, tmp_path / 'run', DEVICES)
