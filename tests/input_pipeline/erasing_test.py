import jax
import numpy as np

from input_pipeline.erasing import random_cutout, random_erasing

COUNT, HEIGHT, WIDTH = 1000, 8, 6
IMAGES = np.ones((COUNT, HEIGHT, WIDTH, 3), np.float32)
KEYS = jax.random.split(jax.random.key(0), COUNT)


def erased_sizes(results):
    """Height and width of what is erased in each image, int[COUNT, 2], which must be a rectangle."""
    erased = np.asarray(results == 0)
    assert (erased == erased[..., :1]).all()
    sizes = np.stack([erased.any((2, 3)).sum(1), erased.any((1, 3)).sum(1)], axis=1)
    assert (sizes.prod(1) == erased[..., 0].sum((1, 2))).all()
    return sizes


def test_cutout_centres_lie_on_every_pixel():
    erased = np.asarray(random_cutout(IMAGES, KEYS, size=1) == 0)[..., 0]
    assert (erased.sum((1, 2)) == 1).all()
    assert erased.sum(0).min() > 5  # of 21 expected


def test_cutout_squares_are_cut_off_at_the_border():
    sizes = erased_sizes(random_cutout(IMAGES, KEYS, size=4))
    assert set(np.unique(sizes)) == {2, 3, 4}
    # The centre is the third pixel of four: of 8 rows 2 cut at the top, 1 at the bottom.
    assert abs((sizes[:, 0] == 4).mean() - 5 / 8) < 0.06


def test_about_the_probability_is_erased_within_the_range_of_sizes():
    sizes = erased_sizes(random_erasing(IMAGES, KEYS, probability=0.3))
    assert abs((sizes[:, 0] > 0).mean() - 0.3) < 0.06
    sizes = sizes[sizes[:, 0] > 0]
    assert (sizes < [HEIGHT, WIDTH]).all()
    assert sizes.prod(1).max() <= 0.33 * HEIGHT * WIDTH + 4  # sides are rounded
    assert (sizes[:, 0] > sizes[:, 1]).any()
    assert (sizes[:, 0] < sizes[:, 1]).any()


def test_rectangle_that_never_fits_is_not_erased():
    results = random_erasing(IMAGES, KEYS, probability=1.0, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    np.testing.assert_array_equal(results, IMAGES)
