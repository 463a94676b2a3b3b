import jax
import numpy as np
import pytest

from input_pipeline.loaders import Resident, evaluation_order, steps_per_epoch, training_order
from input_pipeline.sources import Split


def test_chosen_images_are_not_copied_to_a_cpu():
    images = np.arange(5 * 3 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3, 3)
    loader = Resident(Split(images, np.arange(5), np.arange(5)), np.array([4, 1, 2]))
    taken = loader.arrays['image']
    np.testing.assert_array_equal(taken, images[[4, 1, 2]])
    assert jax.device_put(taken).unsafe_buffer_pointer() == taken.ctypes.data


def test_training_order_is_a_permutation_given_by_seed_and_epoch():
    order = training_order(100, seed=3, epoch=7)
    np.testing.assert_array_equal(np.sort(order), np.arange(100))
    np.testing.assert_array_equal(order, training_order(100, seed=3, epoch=7))
    for other in (training_order(100, seed=3, epoch=8), training_order(100, seed=4, epoch=7)):
        assert (order != other).mean() > 0.9


def test_training_order_never_changes():
    """Runs of an older version would not continue as they began."""
    np.testing.assert_array_equal(training_order(8, seed=0, epoch=0), [5, 0, 6, 1, 7, 2, 4, 3])


@pytest.mark.parametrize(('size', 'batches'), [(1, 1), (7, 2), (8, 2), (9, 3)])
def test_evaluation_order_counts_each_example_once(size, batches):
    order = evaluation_order(size, 4)
    assert order.shape == (batches, 4)
    np.testing.assert_array_equal(order[order >= 0], np.arange(size))
    assert (order.ravel()[size:] == -1).all()


@pytest.mark.parametrize(('size', 'dropped', 'kept'), [(3, 0, 1), (8, 2, 2), (9, 2, 3)])
def test_smaller_last_batch_is_a_step_unless_dropped(size, dropped, kept):
    assert steps_per_epoch(size, 4, drop_last=True) == dropped
    assert steps_per_epoch(size, 4, drop_last=False) == kept


def test_resident_keeps_the_chosen_examples():
    split = Split(
        np.arange(10, dtype=np.uint8)[:, None, None, None], np.arange(10), np.arange(10).astype(str)
    )
    loader = Resident(split, np.array([1, 4, 9]))
    assert loader.size == 3
    np.testing.assert_array_equal(loader.arrays['image'].ravel(), [1, 4, 9])
    np.testing.assert_array_equal(loader.arrays['label'], [1, 4, 9])
    np.testing.assert_array_equal(loader.ids, ['1', '4', '9'])
