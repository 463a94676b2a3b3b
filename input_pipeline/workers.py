"""What all worker processes begin with. They import this file, so it imports little."""

import multiprocessing
import os
import signal
import threading
import time

_SECONDS = 1.0  # between a worker's looks at whether its parent still lives


def follow_parent() -> None:
    """Leaves Ctrl-C, which goes to every process, to the parent, and ends with it, however it ends."""
    parent = multiprocessing.parent_process().pid

    def watch():
        while os.getppid() == parent:
            time.sleep(_SECONDS)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
