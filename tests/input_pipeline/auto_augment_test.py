import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import auto_augment
from input_pipeline.auto_augment import OPERATIONS, SIGNED

COUNT = len(OPERATIONS)
IMAGES = np.random.default_rng(0).random((COUNT, 20, 16, 3), np.float32)
APPLY = jax.jit(auto_augment.apply)


def drawn(monkeypatch, function, **arguments):
    """What `function` draws for 2,000 images: operations and magnitudes, each [2000] a turn."""
    turns = []
    monkeypatch.setattr(auto_augment, 'apply', lambda images, *chosen: turns.append(chosen) or images)
    keys = jax.random.split(jax.random.key(1), 2000)
    function(jnp.zeros((2000, 20, 16, 3)), keys, **arguments)
    return [tuple(map(np.asarray, turn)) for turn in turns]


def test_images_of_a_batch_undergo_different_operations():
    magnitudes = auto_augment.magnitudes(20, 16, wide=True)[:, 20]
    results = APPLY(IMAGES, jnp.arange(COUNT), magnitudes)
    for index, name in enumerate(OPERATIONS):
        same = np.full(COUNT, index)
        alone = APPLY(IMAGES[same], same, magnitudes[same])[0]
        np.testing.assert_allclose(results[index], alone, atol=1e-6)
        assert np.array_equal(alone, IMAGES[index]) == (name == 'identity'), name


@pytest.mark.parametrize('wide', [False, True])
@pytest.mark.parametrize('level', [0, 30])
@pytest.mark.parametrize('sign', [-1, 1])
def test_results_stay_between_0_and_1(wide, level, sign):
    signs = [sign if name in SIGNED else 1 for name in OPERATIONS]
    magnitudes = auto_augment.magnitudes(20, 16, wide=wide)[:, level] * signs
    results = APPLY(IMAGES, jnp.arange(COUNT), magnitudes)
    assert (results >= 0).all()
    assert (results <= 1).all()


def test_constant_channels_cannot_be_stretched_or_equalized():
    gray = jnp.full((1, 20, 16, 1), 51 / 255)
    np.testing.assert_allclose(auto_augment.autocontrast(gray), gray)
    np.testing.assert_allclose(auto_augment.equalize(gray), gray, rtol=1e-6)


def test_rand_augment_draws_every_operation_at_one_magnitude(monkeypatch):
    turns = drawn(monkeypatch, auto_augment.rand_augment, operations=3, magnitude=15)
    assert len(turns) == 3
    assert (turns[0][0] != turns[1][0]).mean() > 0.8
    table = auto_augment.magnitudes(20, 16, wide=False)[:, 15]
    for operation, magnitude in turns:
        assert np.bincount(operation, minlength=COUNT).min() > 90  # of 143 expected
        np.testing.assert_allclose(np.abs(magnitude), table[operation], rtol=1e-6)
        for index, name in enumerate(OPERATIONS):
            negative = (magnitude[operation == index] < 0).mean()
            assert 0.3 < negative < 0.7 if name in SIGNED else negative == 0, name


def test_trivial_augment_draws_one_operation_at_any_magnitude(monkeypatch):
    ((operation, magnitude),) = drawn(monkeypatch, auto_augment.trivial_augment)
    assert len(np.unique(operation)) == COUNT
    angles = np.abs(magnitude[operation == OPERATIONS.index('rotate')])
    assert len(np.unique(angles)) > 25  # of 31
    assert angles.max() > 120
