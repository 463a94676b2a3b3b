import re
import signal

import pytest

from training import ConfigError
from training.interruption import Interruption
from training.processes import Launch, find_launch

SLURM = {'SLURM_STEP_NUM_TASKS': '16', 'SLURM_STEP_NUM_NODES': '2'}
MPI = {'OMPI_COMM_WORLD_SIZE': '4', 'OMPI_COMM_WORLD_LOCAL_SIZE': '4', 'OMPI_MCA_orte_hnp_uri': 'address'}


@pytest.mark.parametrize(
    ('environ', 'method', 'local_devices'),
    [
        (SLURM, 'slurm', None),  # one device each
        ({**SLURM, 'CUDA_VISIBLE_DEVICES': '0'}, 'slurm', []),  # all it sees: srun gave each its own
        ({**SLURM, 'SLURM_STEP_NUM_TASKS': '2'}, 'slurm', []),  # all of its node
        (MPI, 'ompi', None),
        ({**MPI, 'OMPI_COMM_WORLD_LOCAL_SIZE': '1'}, 'ompi', []),
    ],
)
def test_launchers_are_found_by_their_environment(environ, method, local_devices):
    assert find_launch(None, None, None, environ) == Launch(None, None, None, method, local_devices)


@pytest.mark.parametrize(
    'environ', [{}, {'SLURM_JOB_ID': '1', 'SLURM_NTASKS': '8'}, {'SLURM_STEP_NUM_TASKS': '1'}]
)
def test_a_process_that_is_not_one_of_several_is_alone(environ):
    """As in a shell that salloc opened."""
    assert find_launch(None, None, None, environ) is None


def test_flags_go_before_the_environment():
    assert find_launch(None, 1, None, SLURM) is None
    assert find_launch('host:1', 4, 3, SLURM) == Launch('host:1', 4, 3, 'deactivate', None)


@pytest.mark.parametrize(
    ('flags', 'environ', 'named'),
    [
        (('host:1', None, None), {}, 'belong together'),
        (('host:1', 4, 4), {}, '--process_id=4: must be from 0 to 3'),
        (('host', 4, 0), {}, '--coordinator=host: must be HOST:PORT'),
        ((None, None, None), {'OMPI_COMM_WORLD_SIZE': '2'}, 'pass --coordinator=HOST:PORT'),
    ],
)
def test_flags_that_join_nothing_are_refused(flags, environ, named):
    with pytest.raises(ConfigError, match=re.escape(named)):
        find_launch(*flags, environ)


def test_several_processes_act_on_a_signal_only_once_agreed():
    with Interruption(shared=True) as interruption:
        signal.raise_signal(signal.SIGTERM)
        assert (interruption.received, interruption.signum) == (signal.SIGTERM, None)
