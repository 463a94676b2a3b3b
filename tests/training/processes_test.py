import contextlib
import re
import signal
from types import SimpleNamespace

import jax
import pytest

from training import ConfigError, processes
from training.interruption import Interruption
from training.processes import Launch, find_launch

SLURM = {'SLURM_STEP_NUM_TASKS': '16', 'SLURM_STEP_NUM_NODES': '2', 'SLURM_LOCALID': '3'}
MPI_5 = {
    'OMPI_COMM_WORLD_SIZE': '4',
    'OMPI_COMM_WORLD_RANK': '2',
    'OMPI_COMM_WORLD_LOCAL_SIZE': '2',
    'OMPI_COMM_WORLD_LOCAL_RANK': '0',
}
TWO_EACH = {**SLURM, 'SLURM_GPUS_PER_TASK': 'a100:2'}
MPI = {**MPI_5, 'OMPI_MCA_orte_hnp_uri': 'address'}


@pytest.mark.parametrize(
    ('coordinator', 'environ', 'launch'),
    [
        (None, SLURM, (None, None, None, 'slurm', [3])),  # one device each
        (None, {**SLURM, 'CUDA_VISIBLE_DEVICES': '0'}, (None, None, None, 'slurm', [])),  # srun gave each one
        (None, {**SLURM, 'CUDA_VISIBLE_DEVICES': 'MIG-1a'}, (None, None, None, 'slurm', [])),  # a part of one
        (None, {**SLURM, 'CUDA_VISIBLE_DEVICES': '0,1,2,3'}, (None, None, None, 'slurm', [3])),
        (None, TWO_EACH, (None, None, None, 'slurm', [])),  # or several
        (None, TWO_EACH | {'CUDA_VISIBLE_DEVICES': '0,1'}, (None, None, None, 'slurm', [])),
        (None, TWO_EACH | {'CUDA_VISIBLE_DEVICES': '0,1,2,3,4,5,6,7'}, (None, None, None, 'slurm', [6, 7])),
        (None, {**SLURM, 'SLURM_STEP_NUM_TASKS': '2'}, (None, None, None, 'slurm', [])),  # all of its node
        (None, MPI, (None, 4, 2, 'ompi', [0])),
        (None, {**MPI, 'OMPI_COMM_WORLD_LOCAL_SIZE': '1'}, (None, 4, 2, 'ompi', [])),
        ('host:1', MPI_5, ('host:1', 4, 2, 'deactivate', [0])),
    ],
)
def test_launchers_are_found_by_their_environment(coordinator, environ, launch):
    assert find_launch(coordinator, None, None, environ) == Launch(*launch)


@pytest.mark.parametrize(
    'environ', [{}, {'SLURM_JOB_ID': '1', 'SLURM_NTASKS': '8'}, {'SLURM_STEP_NUM_TASKS': '1'}]
)
def test_a_process_that_is_not_one_of_several_is_alone(environ):
    """As in a shell that salloc opened."""
    assert find_launch(None, None, None, environ) is None


@pytest.mark.parametrize(
    ('machines', 'environ', 'kept'),
    [
        (['a', 'a'], {}, True),
        (['a', 'b'], {}, False),
        (['a', 'b'], {'JAX_COMPILATION_CACHE_DIR': '/all'}, True),
    ],
)
def test_compiled_programs_are_kept_where_all_processes_find_them(monkeypatch, machines, environ, kept):
    monkeypatch.setattr(processes, '_machines', lambda: machines)
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    updates = {}
    monkeypatch.setattr(jax.config, 'update', updates.__setitem__)
    processes._keep_caches_alike()
    assert updates == ({} if kept else {'jax_enable_compilation_cache': False})


def test_flags_go_before_the_environment():
    assert find_launch(None, 1, None, SLURM) is None
    assert find_launch('host:1', 4, 3, SLURM) == Launch('host:1', 4, 3, 'deactivate', None)


@pytest.mark.parametrize(
    ('flags', 'environ', 'named'),
    [
        (('host:1', None, None), {}, 'belong together'),
        (('host:1', 4, 4), {}, '--process_id=4: must be from 0 to 3'),
        (('host', 4, 0), {}, '--coordinator=host: must be HOST:PORT'),
        ((None, None, None), MPI_5, 'pass --coordinator=HOST:PORT'),
        (('host', None, None), MPI_5, '--coordinator=host: must be HOST:PORT'),
    ],
)
def test_flags_that_join_nothing_are_refused(flags, environ, named):
    with pytest.raises(ConfigError, match=re.escape(named)):
        find_launch(*flags, environ)


@pytest.mark.parametrize('shared', [True, False])
def test_processes_that_do_not_share_the_workdir_are_told(tmp_path, monkeypatch, shared):
    stored = {}
    client = SimpleNamespace(
        key_value_set=stored.__setitem__, blocking_key_value_get=lambda key, _: stored[key]
    )
    monkeypatch.setattr(processes, 'client', lambda: client)
    monkeypatch.setattr(processes, 'SHARING', 0.2)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    for index, name in enumerate(('one', 'one' if shared else 'other')):
        monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
        monkeypatch.setattr(processes, '_barriers', iter([7]))
        (tmp_path / name).mkdir(exist_ok=True)
        with (
            contextlib.nullcontext()
            if shared or not index
            else pytest.raises(ConfigError, match='other is not')
        ):
            processes.check_shared(tmp_path / name)


def test_several_processes_act_on_a_signal_only_once_agreed():
    with Interruption(shared=True) as interruption:
        signal.raise_signal(signal.SIGTERM)
        assert (interruption.received, interruption.signum) == (signal.SIGTERM, None)
