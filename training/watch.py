"""Ends all processes of a run when one ends, and says at once, in one sentence, which one it was."""

import contextlib
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable

from input_pipeline import DataError
from training import CheckpointError, ConfigError, NonFiniteLoss
from training.host_memory import is_out_of_memory, lack_of_memory
from training.interruption import exit_now

CONNECTING = 20  # s for the watch's connections, once all have come; less than processes.HEARTBEAT
USER_ERRORS = (ConfigError, DataError, CheckpointError, NonFiniteLoss)


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
        host = state().coordinator_address.rpartition(':')[0].strip('[]')
        if self._index == 0:
            both = socket.has_dualstack_ipv6()  # where JAX's coordinator listens, too
            family = socket.AF_INET6 if both else socket.AF_INET
            server = socket.create_server(('', 0), family=family, dualstack_ipv6=both, backlog=others)
            server.settimeout(CONNECTING)
            port = server.getsockname()[1]
            client().key_value_set('watch', str(port))
        else:
            port = int(client().blocking_key_value_get('watch', 1000 * CONNECTING))
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
        exit_now(code)

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


def state():
    """Returns what JAX knows of its processes."""
    # JAX has no public way to the key-value store of its coordination service; Orbax goes this one, too.
    from jax._src import distributed

    return distributed.global_state


def client():
    """Returns the store that they share."""
    return state().client
