from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import color

IMAGES = np.random.default_rng(0).random((8, 5, 4, 3), np.float32)


@pytest.mark.parametrize('name', ['saturation', 'hue'])
def test_gray_has_neither_hue_nor_saturation(name):
    gray = IMAGES[..., :1]
    factors = jnp.full(8, 0.3)
    np.testing.assert_array_equal(color.adjust(name, gray, factors), gray)
    in_color = jnp.repeat(gray, 3, axis=-1)
    np.testing.assert_allclose(color.adjust(name, in_color, factors), in_color, atol=2e-4)


def test_random_factors_stay_in_their_ranges_and_every_order_occurs(monkeypatch):
    drawn = {}
    monkeypatch.setattr(color, 'jitter', lambda images, factors, order, names: drawn.update(locals()))
    keys = jax.random.split(jax.random.key(1), 1000)
    color.random_jitter(IMAGES, keys, brightness=0.2, contrast=1.5, saturation=0.4, hue=0.1)
    assert drawn['names'] == list(color.ADJUSTMENTS)
    np.testing.assert_allclose(drawn['factors'].min(0), [0.8, 0.0, 0.6, -0.1], atol=0.01)
    np.testing.assert_allclose(drawn['factors'].max(0), [1.2, 2.5, 1.4, 0.1], atol=0.01)
    assert len(np.unique(drawn['order'], axis=0)) == factorial(4)


def test_what_has_no_strength_is_left_out(monkeypatch):
    drawn = {}
    monkeypatch.setattr(color, 'jitter', lambda images, factors, order, names: drawn.update(locals()))
    keys = jax.random.split(jax.random.key(1), 8)
    color.random_jitter(IMAGES, keys, brightness=0.0, contrast=0.3, saturation=0.0, hue=0.1)
    assert drawn['names'] == ['contrast', 'hue']
    assert drawn['order'].shape == drawn['factors'].shape == (8, 2)
