import jax
import numpy as np
import pytest

from configs import default
from input_pipeline.augment import create_augmentation, create_mixing, random_crop, random_flip

IMAGES = np.random.default_rng(0).random((64, 6, 5, 2), np.float32)
KEYS = jax.random.split(jax.random.key(0), 64)


@pytest.mark.parametrize(('mode', 'numpy_mode'), [('zero', 'constant'), ('reflect', 'reflect')])
def test_crops_are_slices_of_the_padded_image(mode, numpy_mode):
    crops = np.asarray(random_crop(IMAGES, KEYS, padding=2, mode=mode))
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=numpy_mode)
    found = set()
    for image, crop in zip(padded, crops, strict=True):
        corners = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if (image[row : row + 6, column : column + 5] == crop).all()
        ]
        assert len(corners) == 1
        found.update(corners)
    assert len(found) > 15  # of 25 offsets
    assert {row for row, _ in found} == {column for _, column in found} == set(range(5))


def test_about_half_of_the_images_are_mirrored_and_no_other_is_touched():
    flipped = np.asarray(random_flip(IMAGES, KEYS))
    mirrored = (flipped == IMAGES[:, :, ::-1]).all((1, 2, 3))
    same = (flipped == IMAGES).all((1, 2, 3))
    assert (mirrored ^ same).all()
    assert 20 < mirrored.sum() < 44


@pytest.mark.parametrize(
    'keys',
    [
        {'crop_padding': 2, 'flip': True},
        {'crop_scale_min': 0.2},
        {'rotation': 40.0},
        {'rotation': 40.0, 'rotation_interpolation': 'bilinear', 'rotation_fill': 1.0},
        {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.3},
        {'perspective': 0.9, 'perspective_probability': 1.0},
        {'blur': 5, 'blur_sigma_min': 0.5},
        {'auto': 'randaugment'},
        {'auto': 'trivialaugment'},
        {'cutout': 3},
        {'erasing': 0.9},
    ],
    ids=lambda keys: '-'.join(keys),
)
def test_an_image_depends_on_its_own_key_alone(keys):
    images = np.random.default_rng(2).random((64, 6, 5, 3), np.float32)
    before, after = map(jax.jit, create_augmentation(configured(**keys)))
    results = after(before(images, KEYS), KEYS)
    assert (np.abs(results - images).max((1, 2, 3)) > 0.01).mean() > 0.5
    assert (results >= 0).all()
    assert (results <= 1 + 1e-6).all()
    order = np.random.default_rng(3).integers(64, size=64)  # with repetition: another batch as a whole, too
    elsewhere = after(before(images[order], KEYS[order]), KEYS[order])
    np.testing.assert_allclose(results[order], elsewhere, atol=1e-6)


def test_switching_one_function_on_leaves_the_others_draws_alone():
    flips = create_augmentation(configured(flip=True))[0](IMAGES, KEYS)
    erased_too = create_augmentation(configured(flip=True, erasing=1.0))
    results = erased_too[1](erased_too[0](IMAGES, KEYS), KEYS)
    kept = results != 0
    assert 0.5 < kept.mean() < 1
    np.testing.assert_array_equal(np.where(kept, flips, 0), results)


def test_colours_change_before_a_rotation_fills_the_corners():
    augment, _ = create_augmentation(configured(brightness=0.9, rotation=45.0, rotation_fill=0.25))
    images = np.full((64, 9, 9, 3), 0.5, np.float32)
    filled = np.isclose(augment(images, KEYS)[:, 0, 0, 0], 0.25)
    assert filled.mean() > 0.6


@pytest.mark.parametrize('late', [False, True])
def test_cutout_is_before_or_after_normalization(late):
    config = configured(cutout=3, cutout_after_normalization=late)
    erases = [(augment(IMAGES, KEYS) == 0).any() for augment in create_augmentation(config)]
    assert erases == [not late, late]


def test_crop_and_flip_are_independent():
    """One key for both would tie the direction of a crop to the mirroring."""
    keys = jax.random.split(jax.random.key(1), 1000)
    image = np.zeros((1000, 1, 3, 1), np.float32)
    image[:, 0] = [[1], [2], [3]]
    augment, _ = create_augmentation(configured(crop_padding=1, flip=True))
    both = np.asarray(augment(image, keys))[:, 0, :, 0]
    # Only middle rows show; unmirrored, a crop from the left shows 0, 1, 2.
    counts = [(both == pattern).all(1).sum() for pattern in ([0, 1, 2], [2, 1, 0], [2, 3, 0], [0, 3, 2])]
    assert min(counts) > 25  # about 1000 / 3 / 3 / 2 = 56 each


def test_no_augmentation_leaves_images_alone():
    assert all(augment(IMAGES, KEYS) is IMAGES for augment in create_augmentation(configured()))
    assert create_mixing(configured(), 10) is None


def configured(**keys):
    config = default.get_config().augmentation
    config.update(keys)
    return config
