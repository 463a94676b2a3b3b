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
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from input_pipeline import DataError
from training import CheckpointError, ConfigError, NonFiniteLoss
from training.interruption import Interrupted

HEARTBEAT = 30  # s without a sign of life after which a process counts as dead
GRACE = 5  # s in which the watch names the process whose end broke a collective operation
USER_ERRORS = (ConfigError, DataError, CheckpointError, NonFiniteLoss)


class Launch(NamedTuple):
    """How this process was started; None is left to JAX's own detection of the launcher `method`."""

    coordinator: str | None  # host:port where process 0 listens
    count: int | None
    index: int | None
    method: str  # slurm, ompi, k8s, or deactivate where nothing is to be detected
    local_devices: list[int] | None  # [] is all; None is one, the process's number on its machine


def find_launch(
    coordinator: str | None, count: int | None, index: int | None, environ: Mapping[str, str]
) -> Launch | None:
    """Returns how this process joins others, by its flags or its environment; None where it is alone.

    Raises:
      ConfigError: the flags are incomplete or contradictory.
    """
    if count == 1:
        return None
    given = [flag is not None for flag in (coordinator, count, index)]
    if all(given):
        if not 0 <= index < count:
            raise ConfigError(
                f'--process_id={index}: must be from 0 to {count - 1}, --process_count less one'
            )
        if not coordinator.rpartition(':')[2].isdecimal():
            raise ConfigError(
                f'--coordinator={coordinator}: must be HOST:PORT, where process 0 can be reached'
            )
        return Launch(coordinator, count, index, 'deactivate', None)
    if any(given):
        raise ConfigError('--coordinator, --process_count and --process_id belong together: pass all or none')
    if int(environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1:
        alone = environ['SLURM_STEP_NUM_TASKS'] == environ['SLURM_STEP_NUM_NODES']
        return Launch(None, None, None, 'slurm', _local_devices(alone, environ))
    if int(environ.get('OMPI_COMM_WORLD_SIZE', 1)) > 1:
        if 'OMPI_MCA_orte_hnp_uri' not in environ:
            raise ConfigError(
                'this mpirun does not say where process 0 is (Open MPI 4 does): pass --coordinator=HOST:PORT '
                '--process_count=$OMPI_COMM_WORLD_SIZE --process_id=$OMPI_COMM_WORLD_RANK'
            )
        alone = environ['OMPI_COMM_WORLD_LOCAL_SIZE'] == '1'
        return Launch(None, None, None, 'ompi', _local_devices(alone, environ))
    if {'KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX'} <= environ.keys() and find_spec('kubernetes'):
        return Launch(None, None, None, 'k8s', None)
    return None


def _local_devices(alone: bool, environ: Mapping[str, str]) -> list[int] | None:
    """All that this process sees if it is alone on its machine, or if the launcher has shared them out."""
    shared_out = environ.get('CUDA_VISIBLE_DEVICES', '').isdecimal()
    return [] if alone or shared_out else None


@contextlib.contextmanager
def joined(launch: Launch | None) -> Iterator[bool]:
    """Makes this process one of several, where it is; yields whether it is process 0, which alone prints.

    Must come before anything asks JAX for devices.

    One that fails tells the others, and all end with exit code 1: within a second or two of an error or a
    death, within HEARTBEAT of the loss of a machine.

    Raises:
      Whatever was raised within; of several processes only Interrupted, which all of them raise.
    """
    if launch is None:
        yield True
        return
    import jax

    handler = signal.getsignal(signal.SIGTERM)
    jax.distributed.initialize(
        launch.coordinator,
        launch.count,
        launch.index,
        local_device_ids=launch.local_devices,
        cluster_detection_method=launch.method,
        heartbeat_timeout_seconds=HEARTBEAT,
    )
    signal.signal(signal.SIGTERM, handler)  # JAX has taken it, for a preemption service not used here
    watch, is_main = Watch(), _state().process_id == 0
    try:
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
        _client().wait_at_barrier(f'loaded/{next(_barriers)}', 1000 * 86400)  # ms; errors come by the watch
    return loaded


_barriers = itertools.count()


@functools.cache
def _turn() -> int:
    import jax

    index = jax.process_index()
    _client().key_value_set(f'machine/{index}', socket.gethostname())
    machines = [
        _client().blocking_key_value_get(f'machine/{i}', 1000 * 600) for i in range(jax.process_count())
    ]
    if index == 0:
        return 0
    return 1 if machines.index(machines[index]) == index else 2


class Watch:
    """Ends this process when another one ends; to be made by all of them once JAX has joined them.

    Every process holds a connection to process 0, which hears of a death by its end and tells the others.
    """

    def __init__(self):
        import jax

        self._index, self._here = jax.process_index(), socket.gethostname()
        self._ending = threading.Lock()
        if self._index == 0:
            host = _state().coordinator_address.rpartition(':')[0]
            server = socket.create_server(('', 0), backlog=jax.process_count())
            _client().key_value_set('watch', f'{host} {server.getsockname()[1]}')
            self._connections = [server.accept()[0] for _ in range(jax.process_count() - 1)]
        else:
            host, port = _client().blocking_key_value_get('watch', 1000 * 60).split()
            self._connections = [socket.create_connection((host.strip('[]'), int(port)))]
        for connection in self._connections:
            _notice_lost_machines(connection)
            threading.Thread(target=self._listen, args=(connection,), daemon=True).start()
        self._tell(f'hello {self._index} ({self._here})')

    def leave(self) -> None:
        """Waits until all processes have come here, and lets them end."""
        import jax

        self._tell('bye')
        jax.distributed.shutdown()

    def fail(self, error: BaseException) -> None:
        """Tells everyone of an error, and ends all processes."""
        where = f'process {self._index} ({self._here})'
        if isinstance(error, ConfigError):
            self._end(str(error), kind='common')  # all have it alike
        if isinstance(error, USER_ERRORS):
            self._end(f'{where}: {error}')
        traceback.print_exception(error)
        self._end(f'{where} failed: {type(error).__name__}: {error}')

    def _listen(self, connection: socket.socket) -> None:
        who, left = 'a process', False
        with contextlib.suppress(OSError), connection.makefile(encoding='utf8') as lines:
            for line in lines:
                kind, _, text = line.rstrip().partition(' ')
                if kind == 'hello':
                    who = f'process {text}'
                elif kind == 'bye':
                    left = True
                else:
                    self._end(text, kind)
        if not left:
            self._end(f'{who} ended unexpectedly; run the same command again to continue')

    def _end(self, message: str, kind: str = 'error') -> None:
        """Passes a message on, prints it (of `common` ones only process 0 does), and ends the process."""
        self._ending.acquire()  # for good: the first message counts
        line = ' '.join(message.split())
        self._tell(f'{kind} {line}')
        if kind == 'error' or self._index == 0:
            print(f'error: {line}', file=sys.stderr, flush=True)
        if self._index == 0:
            time.sleep(1)  # JAX ends the others with a page of its own once it misses this one
        os._exit(1)

    def _tell(self, line: str) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.sendall(f'{line}\n'.encode())


def _notice_lost_machines(connection: socket.socket) -> None:
    """A machine without power closes no connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, 'TCP_KEEPIDLE'):  # Linux
        for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4)):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _state():
    # JAX has no public way to the key-value store of its coordination service; Orbax goes this one, too.
    from jax._src import distributed

    return distributed.global_state


def _client():
    return _state().client
