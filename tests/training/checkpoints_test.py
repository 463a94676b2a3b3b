import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import CheckpointError
from training.checkpoints import Checkpoints

TREE = {
    'a': {'kernel': jnp.arange(6.0).reshape(2, 3)},
    'half': jnp.ones(2, jnp.bfloat16),
    'step': jnp.int32(7),
}


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    yield checkpoints
    checkpoints.close()


def saved(checkpoints, *steps, name='last'):
    for step in steps:
        checkpoints.save(name, step, {**TREE, 'step': jnp.int32(step)}, {'epoch': step // 2})
    checkpoints.close()
    return checkpoints


def shapes(tree=TREE):
    return jax.eval_shape(lambda: tree)


def test_what_is_saved_is_restored(checkpoints):
    restored = saved(checkpoints, 7).restore('last', 7, shapes())
    jax.tree.map(np.testing.assert_array_equal, restored, TREE)
    assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(lambda x: x.dtype, TREE)
    assert checkpoints.metadata('last', 7) == {'epoch': 3}


def test_what_cannot_be_written_is_said(checkpoints, tmp_path):
    saved(checkpoints, 7)
    (tmp_path / 'best').touch()  # where a folder has to be
    with pytest.raises(CheckpointError, match=f'cannot be written to {tmp_path}.*what was saved before'):
        saved(checkpoints, 7, name='best')
    assert checkpoints.steps('last') == [7]


def test_two_are_kept(checkpoints):
    saved(checkpoints, 1, 2, 3)
    saved(checkpoints, 1, 2, name='best')
    assert (checkpoints.steps('last'), checkpoints.steps('best')) == ([2, 3], [1, 2])


def test_newer_ones_of_an_abandoned_course_are_replaced(checkpoints):
    saved(checkpoints, 8, 9)
    saved(Checkpoints(checkpoints.directory), 5)
    assert checkpoints.steps('last') == [5]


def test_same_step_can_be_saved_again(checkpoints):
    saved(checkpoints, 4)
    checkpoints.save('last', 4, {**TREE, 'step': jnp.int32(99)}, {})
    checkpoints.close()
    assert checkpoints.restore('last', 4, shapes())['step'] == 99


def test_best_is_on_disk_before_the_last_that_speaks_of_it(checkpoints):
    checkpoints.save('best', 2, TREE, {})
    checkpoints.save('last', 2, TREE, {})
    assert checkpoints.steps('best') == [2]


def test_a_reader_leaves_what_is_being_written(checkpoints):
    saved(checkpoints, 1)
    unfinished = checkpoints.directory / 'last' / '2.orbax-checkpoint-tmp'
    unfinished.mkdir()
    reader = Checkpoints(checkpoints.directory, read_only=True)
    assert reader.metadata('last', 1) == {'epoch': 0}
    assert reader.restore('last', 1, shapes())['step'] == 1
    reader.close()
    assert unfinished.is_dir()


def test_empty_and_unfinished_folders_are_no_checkpoints(checkpoints):
    for name in ('99', '98.orbax-checkpoint-tmp'):
        (checkpoints.directory / 'last' / name).mkdir(parents=True)
    assert checkpoints.steps('last') == []
    assert saved(checkpoints, 5).steps('last') == [5]


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        ({'half': jnp.ones(2)}, "half (there ((2,), 'bfloat16'), now ((2,), 'float32'))"),
        ({'half': jnp.ones(3, jnp.bfloat16)}, 'half'),
        ({'more': jnp.ones(1)}, 'more (there None'),
    ],
)
def test_arrays_of_another_model_are_refused(checkpoints, change, named):
    with pytest.raises(CheckpointError, match='another model.*' + re.escape(named)):
        saved(checkpoints, 1).restore('last', 1, shapes({**TREE, **change}))


def test_damaged_checkpoint_says_which_and_names_the_other(checkpoints):
    saved(checkpoints, 1, 2)
    for file in (checkpoints.directory / 'last' / '2' / 'arrays').rglob('*'):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r'last/2 cannot be read .*delete that folder to use step 1$'):
        checkpoints.restore('last', 2, shapes())
    assert checkpoints.restore('last', 1, shapes())['step'] == 1
