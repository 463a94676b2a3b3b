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
import uuid
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline import DataError
from training import CheckpointError, ConfigError, NonFiniteLoss
from training.host_memory import is_out_of_memory, lack_of_memory
from training.interruption import Interrupted

HEARTBEAT = 30  # s without a sign of life after which a process counts as dead: frozen, or its machine lost
PATIENCE = 300  # s for all processes to come
CONNECTING = 20  # s for the watch's connections, once all have come; less than HEARTBEAT
SHARING = 20  # s until a file that one process wrote is there for the others, on a network's disk
GRACE = 5  # s in which the watch names the process whose end broke a collective operation
USER_ERRORS = (ConfigError, DataError, CheckpointError, NonFiniteLoss)


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
        alone = alone or 'SLURM_GPUS_PER_TASK' in environ  # each task sees its own, one or several
        return Launch(None, None, None, 'slurm', _local_devices(alone, 'SLURM_LOCALID', environ))
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


def _local_devices(alone: bool, number: str, environ: Mapping[str, str]) -> list[int]:
    """All that it sees where it is alone or was given its own; else the one of its number on the machine."""
    given = environ.get('CUDA_VISIBLE_DEVICES', '')
    given_one = bool(given) and ',' not in given  # a number, or the UUID of a GPU or of a part of one
    return [] if alone or given_one else [int(environ[number])]


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


def check_shared(folder: Path) -> None:
    """Raises ConfigError where not all processes see the same folder. To be called by all."""
    import jax

    if jax.process_count() == 1:
        return
    file, key = folder / '.processes', f'shared/{next(_barriers)}'
    if jax.process_index() == 0:
        file.write_text(token := uuid.uuid4().hex)
        _client().key_value_set(key, token)
        return
    token = _client().blocking_key_value_get(key, 1000 * PATIENCE)
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
    _client().key_value_set(f'machine/{jax.process_index()}', socket.gethostname())
    return [_client().blocking_key_value_get(f'machine/{i}', 1000 * 600) for i in range(jax.process_count())]


class Watch:
    """Ends this process when another one ends; to be made by all of them once JAX has joined them.

    Every process holds a connection to process 0, which hears of a death by its end and tells the others.
    """

    def __init__(self):
        import jax

        self._index, self._here = jax.process_index(), socket.gethostname()
        self._ending = threading.Lock()
        self._connections = self._connect(jax.process_count() - 1)
        for connection in self._connections:
            _notice_lost_machines(connection)
            _begin(self._listen, connection)
        self._tell(f'hello {self._index} ({self._here})')
        self._heed_signals()

    def _connect(self, others: int) -> list[socket.socket]:
        host = _state().coordinator_address.rpartition(':')[0].strip('[]')
        if self._index == 0:
            both = socket.has_dualstack_ipv6()  # where JAX's coordinator listens, too
            family = socket.AF_INET6 if both else socket.AF_INET
            server = socket.create_server(('', 0), family=family, dualstack_ipv6=both, backlog=others)
            server.settimeout(CONNECTING)
            port = server.getsockname()[1]
            _client().key_value_set('watch', str(port))
        else:
            port = int(_client().blocking_key_value_get('watch', 1000 * CONNECTING))
        try:
            if self._index == 0:
                return [server.accept()[0] for _ in range(others)]
            connection = socket.create_connection((host, port), CONNECTING)
        except OSError as error:
            raise ConfigError(
                f'process {self._index} ({self._here}): no connection between process 0 and the others at '
                f'{host}:{port} ({error}); not only the port of --coordinator must be open between them'
            ) from error
        connection.settimeout(None)
        return [connection]

    def _heed_signals(self) -> None:
        def stop(signum):
            self._end(
                f'stopped by {signal.Signals(signum).name}; nothing new was there to save',
                code=128 + signum,
                by_main=True,
            )

        def handle(signum, _frame):
            _begin(stop, signum)  # the main thread may be ending the process already

        def notice():
            while True:
                signum = awake.recv(1)[0]
                if signal.getsignal(signum) is handle:
                    stop(signum)

        # Handlers run in the main thread, but only once JAX returns to it from a compilation or from waiting
        # for other processes. The number of the signal Python writes to a socket at once.
        awake, wake = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.detach(), warn_on_full_buffer=False)
        _begin(notice)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, handle)

    def leave(self) -> None:
        """Waits until all processes have come here, and lets them end."""
        import jax

        self._tell('bye')
        jax.distributed.shutdown()

    def fail(self, error: BaseException) -> None:
        """Tells everyone of an error, and ends all processes."""
        where = f'process {self._index} ({self._here})'
        if isinstance(error, ConfigError | NonFiniteLoss):
            self._end(f'error: {error}', by_main=True)  # all have it alike
        if isinstance(error, USER_ERRORS):
            self._end(f'error: {where}: {error}', by_main=True)  # all may have it alike
        if is_out_of_memory(error):
            self._end(f'error: {where}: {lack_of_memory(error)}', by_main=True)
        traceback.print_exception(error)
        self._end(f'error: {where} failed: {type(error).__name__}: {error}')

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
                    code, message = text.split(' ', 1)
                    self._end(message, code=int(code), by_main=kind == 'end_by_main')
        if not left:
            self._end(f'error: {who} ended unexpectedly; run the same command again to continue')

    def _end(self, message: str, *, code: int = 1, by_main: bool = False) -> None:
        """Passes a message on, prints it (`by_main`: only process 0 does), and ends the process."""
        self._ending.acquire()  # for good: the first message counts
        line = ' '.join(message.split())
        self._tell(f'{"end_by_main" if by_main else "end"} {code} {line}')
        if self._index == 0 or not by_main:
            print(line, file=sys.stderr, flush=True)
        if self._index == 0:
            time.sleep(1)  # JAX ends the others with a page of its own once it misses this one
        os._exit(code)

    def _tell(self, line: str) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.sendall(f'{line}\n'.encode())


def _begin(function: Callable, *arguments) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


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
