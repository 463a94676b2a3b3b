"""Where steps get their images from: a split on the devices, or a stream of batches."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from input_pipeline.loaders import Resident
from training.experiment import Experiment
from training.parallel import Execution
from training.processes import count_on_this_machine

_AHEAD = 2  # batches on the devices before they are asked for
_END = object()


def create_training_feed(experiment: Experiment, step: int) -> 'ResidentFeed | StreamingFeed':
    """Returns where training gets its batches from, from `step` of the run on. To be closed after use."""
    config, loader = experiment.config, experiment.loaders['train']
    if isinstance(loader, Resident):
        return ResidentFeed(experiment.execution, loader)
    batches = loader.training_batches(
        config.batch_size,
        seed=config.seed,
        epochs=config.epochs,
        drop_last=config.dataset.drop_last,
        start=step,
        part=experiment.execution.part,
        local_processes=count_on_this_machine(),
    )
    return StreamingFeed(experiment.execution, batches)


class ResidentFeed:
    """Gives the whole split, which a step gathers its batch from."""

    waited = 0.0

    def __init__(self, execution: Execution, loader: Resident):
        self._data = execution.place_data(loader.arrays)

    def take(self, running: Any) -> Any:
        return self._data

    def close(self) -> None:
        """Lets go of the split, whose memory the evaluation of others may need."""
        self._data = None


class StreamingFeed:
    """Gives one batch after the other; a thread puts them on the devices ahead of their use.

    Attributes:
      waited: seconds for which the devices lacked a batch to work on.
    """

    def __init__(self, execution: Execution, batches: Iterator[dict[str, np.ndarray]]):
        """Waits for the first of the batches, which have a method `close`, as a generator has."""
        self.waited = 0.0
        self._queue = queue.Queue(_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(execution, batches), daemon=True)
        self._thread.start()
        self._first = self._queue.get()

    def take(self, running: Any) -> Any:
        """Returns the next batch on the devices, or None after the last.

        Args:
          running: what the devices are computing: waiting counts from when it is there.

        Raises:
          Whatever reading the batch raised.
        """
        item, self._first = self._first, None
        if item is None:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                jax.block_until_ready(running)
                started = time.monotonic()
                item = self._queue.get()
                self.waited += time.monotonic() - started
        if isinstance(item, Exception):
            raise item
        return None if item is _END else item

    def close(self) -> None:
        """Ends the thread, and with it the batches and their workers."""
        self._closed.set()
        self._thread.join()

    def _fill(self, execution, batches):
        try:
            for batch in batches:
                self._offer(execution.place_batch(batch))
                if self._closed.is_set():
                    return
            self._offer(_END)
        except Exception as error:
            self._offer(error)
        finally:
            batches.close()

    def _offer(self, item):
        while not self._closed.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                pass
