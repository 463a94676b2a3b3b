import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import geometry
from input_pipeline.geometry import (
    random_perspective,
    random_resized_crop,
    random_rotation,
    sample,
)

IMAGES = np.random.default_rng(0).random((4, 7, 7, 3), np.float32)


def test_random_angles_spread_between_plus_and_minus_the_limit():
    rows = jnp.broadcast_to(jnp.arange(9.0)[:, None, None], (500, 9, 9, 1))
    keys = jax.random.split(jax.random.key(1), 500)
    results = random_rotation(rows, keys, degrees=30.0, interpolation='bilinear', fill=0.0)
    # Three pixels to the right of the centre: read from 3 sin(angle) below it.
    angles = np.rad2deg(np.arcsin((np.asarray(results)[:, 4, 7, 0] - 4) / 3))
    assert np.abs(angles).max() <= 30 + 1e-3
    counts, _ = np.histogram(angles, 5, (-30, 30))
    assert counts.min() > 60  # of 100 expected


def test_bilinear_reading_weighs_the_four_nearest_pixels():
    row, column = jnp.full((4, 1, 1), 2.25), jnp.full((4, 1, 1), 3.5)
    result = sample(IMAGES, row, column, interpolation='bilinear', fill=0.0)[:, 0, 0]
    left, right = (0.75 * IMAGES[:, 2, x] + 0.25 * IMAGES[:, 3, x] for x in (3, 4))
    np.testing.assert_allclose(result, (left + right) / 2, rtol=1e-5)


def test_random_crops_are_torchvisions(monkeypatch):
    monkeypatch.setattr(geometry, 'resized_crop', lambda images, boxes: boxes)
    images, keys = jnp.zeros((2000, 90, 120, 3)), jax.random.split(jax.random.key(3), 2000)
    boxes = np.asarray(random_resized_crop(images, keys, scale_min=0.25))
    (top, left), (height, width) = boxes[:, :2].T, boxes[:, 2:].T
    assert boxes[:, :2].min() == 0
    assert (top + height).max() == 90
    assert (left + width).max() == 120
    shares = height * width / (90 * 120)
    assert shares.min() == pytest.approx(0.25, abs=0.01)
    assert shares.max() > 0.9
    # The median of 100,000 of torchvision: large ones seldom fit, and are drawn again.
    assert np.median(shares) == pytest.approx(0.511, abs=0.02)
    ratios = width / height
    assert (ratios.min(), ratios.max()) == pytest.approx((3 / 4, 4 / 3), abs=0.03)


def test_resized_crop_of_an_oblong_image_takes_its_middle_where_none_fits(monkeypatch):
    monkeypatch.setattr(geometry, 'resized_crop', lambda images, boxes: boxes)
    keys = jax.random.split(jax.random.key(0), 5)
    boxes = random_resized_crop(jnp.zeros((5, 60, 120, 3)), keys, scale_min=0.9)  # 4/3 is 2/3 of its area
    np.testing.assert_array_equal(boxes, [[0, 20, 60, 80]] * 5)


def test_random_corners_are_torchvisions_and_half_of_the_images_stay(monkeypatch):
    monkeypatch.setattr(geometry, 'perspective', lambda images, corners: corners)
    keys = jax.random.split(jax.random.key(2), 1000)
    images = jnp.zeros((1000, 9, 14, 3))
    corners = random_perspective(images, keys, distortion=0.5, probability=0.5)
    moved = (corners != jnp.array([[0, 0], [13, 0], [13, 8], [0, 8]])).any((1, 2))
    assert 430 < moved.sum() < 540
    # RandomPerspective.get_params: randint from 0 to 3 and from 10 to 13 across, 0 to 2 and 6 to 8 down.
    for corner, (x, y) in enumerate(((0, 0), (10, 0), (10, 6), (0, 6))):
        drawn = np.asarray(corners[moved, corner])
        assert set(drawn[:, 0]) == set(range(x, x + 4))
        assert set(drawn[:, 1]) == set(range(y, y + 3))
