"""Several processes as one run: how they find each other, and what happens to the others when one ends.

JAX joins them (jax.distributed) and ends them when one stops sending heartbeats, which takes HEARTBEAT
seconds and a page of stack traces. A watch over TCP says at once, and in one sentence, which one it was.
"""

import contextlib
import functools
import itertools
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from training import ConfigError
from training.interruption import Interrupted
from training.watch import Watch, client, state

HEARTBEAT = 30  # s without a sign of life after which a process counts as dead: frozen, or its machine lost
PATIENCE = 300  # s for all processes to come
SHARING = 20  # s until a file that one process wrote is there for the others, on a network's disk
GRACE = 5  # s in which the watch names the process whose end broke a collective operation


class Launch(NamedTuple):
    """How this process was started; what is None JAX finds by itself, as the launcher `method` says it."""

    coordinator: str | None  # host:port where process 0 listens
    count: int | None
    index: int | None
    method: str  # slurm, ompi, k8s, or deactivate where nothing is to be detected
    local_devices: (
        list[int] | None
    )  # GPUs of its machine; []: all it sees; None: JAX_LOCAL_DEVICE_IDS, or all


def find_launch(
    coordinator: str | None, count: int | None, index: int | None, environ: Mapping[str, str]
) -> Launch | None:
    """Returns how this process joins others, by its flags or its environment; None where it is alone.

    Raises:
      ConfigError: the flags are incomplete or contradictory.
    """
    if count == 1:
        return None
    if coordinator is not None and not coordinator.rpartition(':')[2].isdecimal():
        raise ConfigError(f'--coordinator={coordinator}: must be HOST:PORT, where process 0 can be reached')
    given = [flag is not None for flag in (coordinator, count, index)]
    if all(given):
        if not 0 <= index < count:
            raise ConfigError(
                f'--process_id={index}: must be from 0 to {count - 1}, --process_count less one'
            )
        return Launch(coordinator, count, index, 'deactivate', None)
    started_by_mpi = int(environ.get('OMPI_COMM_WORLD_SIZE', 1)) > 1
    if any(given) and not (started_by_mpi and given == [True, False, False]):
        raise ConfigError(
            '--coordinator, --process_count and --process_id belong together: pass all or none (with mpirun '
            '--coordinator alone will do)'
        )
    if int(environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1:
        alone = environ['SLURM_STEP_NUM_TASKS'] == environ['SLURM_STEP_NUM_NODES']
        # Each task sees its own, one or several, unless --gpu-bind says otherwise.
        alone |= 'SLURM_GPUS_PER_TASK' in environ and 'CUDA_VISIBLE_DEVICES' not in environ
        own = int(environ.get('SLURM_GPUS_PER_TASK', '1').rpartition(':')[2])  # 2, or a100:2
        return Launch(None, None, None, 'slurm', _local_devices(alone, 'SLURM_LOCALID', environ, own))
    if started_by_mpi:
        if not coordinator and 'OMPI_MCA_orte_hnp_uri' not in environ:
            raise ConfigError(
                'this mpirun does not say where process 0 is (Open MPI 4 does): pass --coordinator=HOST:PORT '
                'with the host of the first process and any port that is free there'
            )
        alone = environ['OMPI_COMM_WORLD_LOCAL_SIZE'] == '1'
        return Launch(
            coordinator,
            int(environ['OMPI_COMM_WORLD_SIZE']),
            int(environ['OMPI_COMM_WORLD_RANK']),
            'deactivate' if coordinator else 'ompi',
            _local_devices(alone, 'OMPI_COMM_WORLD_LOCAL_RANK', environ),
        )
    if {'KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX'} <= environ.keys() and find_spec('kubernetes'):
        return Launch(None, None, None, 'k8s', [])
    return None


def _local_devices(alone: bool, number: str, environ: Mapping[str, str], own: int = 1) -> list[int]:
    """All that it sees where it is alone or sees no more than its `own`; else those by its number here."""
    visible = environ.get('CUDA_VISIBLE_DEVICES', '')  # numbers, or UUIDs of GPUs or of parts of them
    if alone or (visible and len(visible.split(',')) <= own):
        return []
    first = int(environ[number]) * own
    return list(range(first, first + own))


@contextlib.contextmanager
def joined(launch: Launch | None) -> Iterator[bool]:
    """Makes this process one of several, where it is; yields whether it is process 0, which alone prints.

    Must come before anything asks JAX for devices.

    One that fails tells the others, and all end with exit code 1: within a second or two of an error or a
    death, within HEARTBEAT of the loss of a machine. SIGTERM or Ctrl-C to any one ends all in the same way,
    with 128 + the signal's number, except where an Interruption answers them.

    Raises:
      ConfigError: the processes cannot reach each other.
      Whatever was raised within; of several processes only Interrupted, which all of them raise.
    """
    if launch is None:
        yield True
        return
    import jax

    _initialize(launch)
    watch, is_main = Watch(), state().process_id == 0
    try:
        _keep_caches_alike()
        with contextlib.ExitStack() as stack:
            if not is_main:
                nothing = stack.enter_context(open(os.devnull, 'w'))
                stack.enter_context(contextlib.redirect_stdout(nothing))
            yield is_main
    except Interrupted:
        watch.leave()
        raise
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(GRACE)  # it may be because another ended: then the watch names that one
        watch.fail(error)
    else:
        watch.leave()


def _initialize(launch: Launch) -> None:
    import jax

    who = 'this process' if launch.index is None else f'process {launch.index} of {launch.count}'
    where = f' at {launch.coordinator}' if launch.coordinator else ''
    message = f'{who} waits for the others{where}, at most {PATIENCE} s'
    # JAX says nothing before it gives up, and then a page.
    waiting = threading.Timer(10, print, (message,), {'file': sys.stderr, 'flush': True})
    waiting.daemon = True
    waiting.start()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(
            launch.coordinator,
            launch.count,
            launch.index,
            local_device_ids=launch.local_devices,
            cluster_detection_method=launch.method,
            initialization_timeout=PATIENCE,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    finally:
        waiting.cancel()
        signal.signal(signal.SIGTERM, handler)  # JAX has taken it, for a preemption service not used here


def _keep_caches_alike() -> None:
    """Turns the compilation cache off on several machines, whose folders may differ, unless it was placed.

    Process 0 alone writes it. On GPUs XLA shares the autotuning of a program out among the processes: one
    that finds the program would leave the others waiting for its share.
    """
    import jax

    if len(set(_machines())) > 1 and 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_enable_compilation_cache', False)


def in_turn(load: Callable[[], Any]) -> Any:
    """Returns `load()`, called by process 0 first: what it downloads or caches is there for the others.

    On every other machine, whose disk may be its own, one process goes before the rest, too.
    """
    import jax

    if jax.process_count() == 1:
        return load()
    for turn in range(3):
        if turn == _turn():
            loaded = load()
        client().wait_at_barrier(f'loaded/{next(_barriers)}', 1000 * 86400)  # ms; errors come by the watch
    return loaded


def check_shared(folder: Path) -> None:
    """Raises ConfigError where not all processes see the same folder. To be called by all."""
    import jax

    if jax.process_count() == 1:
        return
    file, key = folder / '.processes', f'shared/{next(_barriers)}'
    if jax.process_index() == 0:
        file.write_text(token := uuid.uuid4().hex)
        client().key_value_set(key, token)
        return
    token = client().blocking_key_value_get(key, 1000 * PATIENCE)
    deadline = time.monotonic() + SHARING
    while not (file.exists() and file.read_text() == token):
        if time.monotonic() > deadline:
            raise ConfigError(
                f'{folder} is not the same folder for process {jax.process_index()} '
                f'({socket.gethostname()}) as for process 0: use one that they share'
            )
        time.sleep(0.1)


_barriers = itertools.count()


def _turn() -> int:
    import jax

    index, machines = jax.process_index(), _machines()
    if index == 0:
        return 0
    return 1 if machines.index(machines[index]) == index else 2


def count_on_this_machine() -> int:
    """Returns how many of the processes share this machine's memory. To be called by all."""
    return max(_machines().count(socket.gethostname()), 1)  # none where this one is alone


@functools.cache
def _machines() -> list[str]:
    """Returns the host name of each process; none where this one is alone. To be called by all."""
    import jax

    if jax.process_count() == 1:
        return []
    client().key_value_set(f'machine/{jax.process_index()}', socket.gethostname())
    return [client().blocking_key_value_get(f'machine/{i}', 1000 * 600) for i in range(jax.process_count())]
