import numpy as np
import pytest

from input_pipeline import normalization, sources
from input_pipeline.normalization import constants

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), np.uint8)


def dataset(name, images=IMAGES):
    split = sources.Split(images, np.zeros(len(images), np.int32), np.arange(len(images)).astype(str))
    return sources.Dataset(name, '1.0.0', ('ant', 'bee'), images.shape[1:], {'train': split})


def test_known_datasets_have_their_usual_constants():
    mean, std = constants('dataset', dataset('cifar10'))
    np.testing.assert_array_equal(mean, np.float32([0.4914, 0.4822, 0.4465]))
    np.testing.assert_array_equal(std, np.float32([0.2023, 0.1994, 0.2010]))


def test_other_datasets_constants_are_those_of_their_pixels():
    mean, std = constants('dataset', dataset('unknown'))
    np.testing.assert_allclose(mean, (IMAGES / 255).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, (IMAGES / 255).std((0, 1, 2)), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_constant_channel_is_not_divided_by_zero():
    _, std = constants('dataset', dataset('unknown', np.full((2, 4, 4, 1), 7, np.uint8)))
    assert std == 1


@pytest.mark.parametrize(('name', 'mean', 'std'), [('half', 0.5, 0.5), ('none', 0, 1)])
def test_fixed_normalizations(name, mean, std):
    np.testing.assert_array_equal(constants(name, dataset('cifar10')), [[mean] * 3, [std] * 3])


def test_computed_constants_are_stored_beside_cached_images(tmp_path, monkeypatch):
    np.save(tmp_path / 'train.npy', IMAGES)
    first = constants('dataset', dataset('unknown', np.load(tmp_path / 'train.npy', mmap_mode='r')))
    monkeypatch.setattr(normalization, '_channel_constants', None)
    again = constants('dataset', dataset('unknown', np.load(tmp_path / 'train.npy', mmap_mode='r')))
    np.testing.assert_array_equal(first, again)


def test_stored_constants_of_other_images_are_not_used(tmp_path):
    for images in (IMAGES, IMAGES // 2):
        np.save(tmp_path / 'new.npy', images)
        (tmp_path / 'new.npy').replace(tmp_path / 'train.npy')
        mean, _ = constants('dataset', dataset('unknown', np.load(tmp_path / 'train.npy', mmap_mode='r')))
        np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-6)
