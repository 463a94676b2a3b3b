"""SIGTERM and Ctrl-C: finish what runs, save, and leave with a code that says so."""

import os
import signal
import sys
import threading
from typing import NoReturn


def exit_now(code: int) -> NoReturn:
    """Ends the process on the spot, but gives a terminal its cursor back, which a progress bar hides."""
    if os.isatty(1):
        os.write(1, b'\x1b[?25h')
    os._exit(code)


class Interrupted(BaseException):  # as KeyboardInterrupt, so that what explains errors lets it through
    """The run was asked to stop and has saved its state; `exit_code` is 128 + the signal's number."""

    def __init__(self, signum: int):
        super().__init__(f'stopped by {signal.Signals(signum).name}')
        self.exit_code = 128 + signum


class Interruption:
    """Within `with`, turns the first SIGTERM or SIGINT into a request; another SIGINT then exits at once.

    In an interactive Python, such as a notebook, it raises KeyboardInterrupt: variables survive.
    Signals reach a program's main thread alone; in another one it leaves them as they are.

    Attributes:
      received: the signal that this process got.
      signum: the one to act on, which several processes (`shared`) must have agreed on.
    """

    def __init__(self, *, shared: bool = False):
        self._shared, self._saved = shared, False
        self.received: int | None = None
        self.signum: int | None = None

    def __enter__(self):
        main = threading.current_thread() is threading.main_thread()
        heard = (signal.SIGTERM, signal.SIGINT) if main else ()
        self._previous = {s: signal.signal(s, self._handle) for s in heard}
        return self

    def __exit__(self, *_):
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def nothing_left_to_save(self) -> None:
        """Lets signals, an unanswered one too, raise Interrupted; of several processes, end all at once."""
        self._saved = True
        if self._shared:
            self.__exit__()
        if self.received is not None:
            os.kill(os.getpid(), self.received)

    def _handle(self, signum, _frame):
        if self.received is not None and signum == signal.SIGINT:
            if hasattr(sys, 'ps1'):  # Python has it where it is interactive, and IPython sets it
                raise KeyboardInterrupt
            exit_now(128 + signum)
        self.received = signum
        if self._saved:
            raise Interrupted(signum)
        if not self._shared:
            self.signum = signum
