import numpy as np
import pytest

from input_pipeline import DataError
from input_pipeline.splits import carve_validation

LABELS = np.repeat(np.arange(4, dtype=np.int32), [10, 20, 30, 40])


@pytest.mark.parametrize('validation', [0.2, 20])
def test_both_parts_have_the_classes_in_proportion(validation):
    train, held_out = carve_validation(LABELS, validation, seed=0)
    assert np.bincount(LABELS[held_out]).tolist() == [2, 4, 6, 8]
    assert np.bincount(LABELS[train]).tolist() == [8, 16, 24, 32]
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(100))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()


def test_seed_decides_what_is_held_out():
    first, again, other = (carve_validation(LABELS, 0.2, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize('validation', [1, 100, 5000, 3, 98, 0.01])
def test_impossible_parts_are_refused(validation):
    with pytest.raises(DataError, match=r'dataset\.validation'):
        carve_validation(LABELS, validation, seed=0)


def test_what_suffices_is_said():
    with pytest.raises(DataError, match='validation=3;'):
        carve_validation(np.arange(30) % 3, 2, seed=0)
    assert len(carve_validation(np.arange(30) % 3, 3, seed=0)[1]) == 3


@pytest.mark.parametrize(
    ('names', 'expected'), [(None, 'image of 3, 4, and'), ('abcde', 'image of d, e, and')]
)
def test_classes_of_one_image_are_named(names, expected):
    with pytest.raises(DataError, match=expected):
        carve_validation(np.array([0, 0, 1, 1, 2, 2, 3, 4]), 0.5, seed=0, class_names=names)
