import csv
import os
import re
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from configs import default
from input_pipeline import DataError, sources
from training import classifier
from training.classifier import Classifier, classify
from training.evaluation import evaluate
from training.parallel import Execution
from training.verification import export_features

pytestmark = pytest.mark.usefixtures('config')
DEVICES = jax.devices()[:1]


@pytest.fixture(scope='module')
def restored():
    return {}


@pytest.fixture
def model(finished, restored):
    """The same for all tests, but restored in one, where the models are small."""
    if not restored:
        restored['model'] = Classifier(str(finished), devices=DEVICES)
    return restored['model']


@pytest.fixture(scope='module')
def images():
    config = default.get_config().dataset
    config.name = 'digits'
    return sources.load(config, ('test',)).splits['test'].images


def test_arrays_are_classified_as_the_split_is(model, finished, images, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, 'CHUNK', 100)  # 360 images: three whole ones and a rest
    probabilities = model.probabilities(images)
    workdir = shutil.copytree(finished, tmp_path / 'finished')
    evaluate(workdir, predictions=tmp_path / 'a.csv', devices=DEVICES)
    rows = list(csv.DictReader((tmp_path / 'a.csv').open()))
    assert [int(row['predicted']) for row in rows] == probabilities.argmax(1).tolist()
    np.testing.assert_allclose([float(row['confidence']) for row in rows], probabilities.max(1), atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    for single in (images[:1], images[0], images[0, ..., 0]):
        np.testing.assert_allclose(model.probabilities(single), probabilities[:1], atol=1e-6)
    assert (model.class_names[3], model.image_shape) == ('3', (8, 8, 1))


def test_other_devices_are_left_alone(finished, monkeypatch):
    def spy(self, tree):
        seen.update(*(x.devices() for x in jax.tree.leaves(tree)))
        return replicate(self, tree)

    seen, replicate = set(), Execution.replicate
    monkeypatch.setattr(Execution, 'replicate', spy)
    Classifier(finished, devices=jax.devices()[3:4])
    assert seen == set(jax.devices()[3:4])


@pytest.mark.parametrize('flip', [None, True])
def test_features_are_those_that_are_exported(model, finished, images, tmp_path, flip):
    exported = export_features(finished, tmp_path / 'a.npy', flip=flip, devices=DEVICES)
    np.testing.assert_allclose(model.features(images[:5], flip=flip), exported[:5], atol=1e-6)


def test_files_are_classified_as_their_pixels(model, images, tmp_path):
    Image.fromarray(images[0, ..., 0]).save(tmp_path / 'a.png')
    Image.fromarray(images[1, ..., 0].repeat(2, 0).repeat(2, 1)).save(tmp_path / 'b.bmp')
    small = np.asarray(Image.open(tmp_path / 'b.bmp').resize((8, 8), Image.Resampling.BILINEAR))[..., None]
    expected = model.probabilities(np.stack([images[0], small]))
    np.testing.assert_allclose(model.probabilities([tmp_path / 'a.png', str(tmp_path / 'b.bmp')]), expected)
    with Image.open(tmp_path / 'b.bmp') as picture:
        np.testing.assert_allclose(model.probabilities([images[0], picture]), expected)
        large = np.asarray(picture)
    for single in (str(tmp_path / 'b.bmp'), large[..., None]):
        np.testing.assert_allclose(model.probabilities(single), expected[1:], atol=1e-6)


def test_the_module_itself_wants_normalised_images(model, images):
    normalised = (images[:3] / 255 - model.mean) / model.std
    logits = model.model.apply(model.variables, normalised.astype(np.float32), train=False)
    np.testing.assert_allclose(softmax(logits, axis=1), model.probabilities(images[:3]), atol=1e-6)


def test_images_come_in_many_ways(finished, images, tmp_path):
    model = Classifier(finished, 18, devices=DEVICES)
    expected = model.probabilities(images[:3])
    np.testing.assert_allclose(model.probabilities(jnp.asarray(images[:3])), expected)
    np.testing.assert_allclose(model.probabilities(iter(images[:3])), expected)
    tensor = SimpleNamespace(__array__=lambda dtype=None, copy=None: images[:3])  # as PyTorch has them
    np.testing.assert_allclose(model.probabilities(tensor), expected)
    np.testing.assert_allclose(model.probabilities(jnp.asarray(images[0])), expected[:1], atol=1e-6)
    Image.fromarray(images[0, ..., 0]).save(tmp_path / 'a.png')
    paths = np.array([str(tmp_path / 'a.png')] * 3)
    np.testing.assert_allclose(model.probabilities(paths), expected[[0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(model.probabilities(paths[0]), expected[:1], atol=1e-6)
    assert model.step == 18


def test_few_numbers_of_images_are_compiled_for(finished, images):
    model = Classifier(finished, devices=DEVICES)
    for count in range(1, 65, 3):
        assert model.probabilities(images[:count]).shape == (count, 10)
    (compiled,) = model._compiled.values()
    assert compiled._cache_size() == 6  # 1, 4, 8, … 64


def test_what_is_no_image_of_the_model_is_refused(model, images, tmp_path):
    for wrong in (images / 255, images[:, :7]):
        with pytest.raises(DataError, match=re.escape('must be uint8[n, 8, 8, 1], but are')):
            model.probabilities(wrong)
    with pytest.raises(DataError, match=r'none\.png cannot be read: No such file'):
        model.probabilities([tmp_path / 'none.png'])
    for wrong in (images[..., 0], images[0] / 255):
        with pytest.raises(DataError, match=re.escape('is not uint8[height, width, channels]')):
            model.probabilities(wrong)
    with pytest.raises(DataError, match='an image cannot be read: NoneType is neither a file nor an image'):
        model.probabilities([None])
    with pytest.raises(DataError, match='there are no images'):
        model.probabilities([])


def test_names_of_any_bytes_and_hidden_files(finished, images, tmp_path, capsys):
    photos = tmp_path / 'photos'
    (photos / '.thumbnails').mkdir(parents=True)
    for name in (b'B\xfchne.png', b'._B.png', b'.thumbnails/b.png'):
        with open(os.fsencode(photos) + b'/' + name, 'wb') as file:
            Image.fromarray(images[0, ..., 0]).save(file, 'PNG')
    ((name, *_),) = classify(finished, photos, tmp_path / 'a.csv', devices=DEVICES)
    assert name == 'B\\xfchne.png'
    assert (tmp_path / 'a.csv').read_text().splitlines()[1].startswith(name)


def test_folder_is_classified_into_a_file(model, finished, images, tmp_path, capsys):
    for index, name in enumerate(('a.png', 'sub/b.PNG')):
        (tmp_path / 'photos' / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(images[index, ..., 0]).save(tmp_path / 'photos' / name, 'PNG')
    (tmp_path / 'photos' / 'notes.txt').write_text('no image')
    (tmp_path / 'photos' / 'damaged.jpg').write_text('no image')
    returned = classify(finished, tmp_path / 'photos', tmp_path / 'a.csv', devices=DEVICES)
    assert 'damaged.jpg cannot be read: no image; left out' in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / 'a.csv').open()))
    expected = model.probabilities(images[:2])
    assert [row['id'] for row in rows] == [name for name, *_ in returned] == ['a.png', 'sub/b.PNG']
    assert [int(row['predicted']) for row in rows] == expected.argmax(1).tolist()
    assert [row['class'] for row in rows] == [model.class_names[best] for best in expected.argmax(1)]
    np.testing.assert_allclose([float(row['confidence']) for row in rows], expected.max(1), atol=1e-6)
    (tmp_path / 'photos' / 'damaged.jpg').rename(tmp_path / 'damaged.jpg')
    shutil.rmtree(tmp_path / 'photos')
    with pytest.raises(DataError, match='no image in it can be read'):
        classify(finished, tmp_path, devices=DEVICES)
    with pytest.raises(DataError, match='there is no such folder, or no image'):
        classify(finished, tmp_path / 'none', tmp_path / 'a.csv', devices=DEVICES)
