"""How steps are executed: under jit over a mesh or under pmap, one or many in a dispatch.

The only module that knows where arrays live. The rest hands over plain arrays and pure steps, and gets
plain arrays back.
"""

import ctypes
import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from training.steps import evaluation_sums

AXIS = 'batch'
SUMS = ('loss', 'correct', 'count')


class StreamedBatch(NamedTuple):
    """A batch, divided among the devices, for a compiled function in the place of a whole split's arrays."""

    arrays: dict[str, jax.Array]


class Execution:
    """Places arrays and compiles steps for all devices.

    Attributes:
      devices: those in use.
      axis_name: what a step must average over (pmap), None under jit.
      device_count: number of devices; the global batch must be divisible by it.
      many_steps: whether a dispatch may hold many steps. On a CPU it may not: XLA runs convolutions
        inside loops on one thread there, hundreds of times slower.
    """

    def __init__(self, parallel: str, devices: Sequence[jax.Device] | None = None):
        """`parallel` is jit or pmap; `devices` are all by default."""
        self.axis_name = AXIS if parallel == 'pmap' else None
        self.devices = list(devices or jax.devices())
        self.device_count = len(self.devices)
        self.many_steps = self.devices[0].platform != 'cpu'
        if not self.many_steps:
            _keep_freed_memory()
        mesh = Mesh(np.array(self.devices), (AXIS,))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._by_device = NamedSharding(mesh, PartitionSpec(AXIS))
        self._by_column = NamedSharding(mesh, PartitionSpec(None, AXIS))

    @property
    def name(self) -> str:
        """Such as '8 x NVIDIA H100'."""
        return f'{self.device_count} x {self.devices[0].device_kind}'

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of every array on every device. Takes the arrays over: do not use them afterwards."""
        if self.axis_name is None:
            return jax.device_put(tree, self._replicated)
        return jax.tree.map(
            lambda x: jax.device_put(np.broadcast_to(x, (self.device_count, *x.shape)), self._by_device), tree
        )

    def unreplicate(self, tree: Any) -> Any:
        """Returns one copy of what `replicate` placed, which outlives the donation of `tree`."""
        if self.axis_name is None:
            return jax.tree.map(jnp.copy, tree)
        return jax.tree.map(lambda x: x.addressable_data(0)[0], tree)

    def place_order(self, order: np.ndarray) -> jax.Array:
        """Splits rows of indices, int32[steps, batch], among the devices by column."""
        if self.axis_name is None:
            return jax.device_put(order, self._by_column)
        by_device = order.reshape(len(order), self.device_count, -1).swapaxes(0, 1)
        return jax.device_put(by_device, self._by_device)

    def place_batch(self, batch: dict[str, np.ndarray]) -> StreamedBatch:
        """Divides the rows of a batch among the devices; returns before they are there."""
        if self.axis_name is not None:
            batch = {name: x.reshape(self.device_count, -1, *x.shape[1:]) for name, x in batch.items()}
        return StreamedBatch(jax.device_put(batch, self._by_device))

    def free_bytes(self) -> float:
        """Returns the memory that is free on each device, or in the machine where it is a CPU."""
        if self.devices[0].platform == 'cpu':
            return _available_bytes()
        statistics = [device.memory_stats() for device in self.devices]
        return min(each['bytes_limit'] - each['bytes_in_use'] for each in statistics)

    def compile_train(self, train_step: Callable) -> Callable:
        """Returns `run(state, data, order, hyperparameters, start, stop) -> state, sums`.

        Runs steps `start` to `stop` of the epoch whose order and hyperparameters (a dict of float32[steps],
        such as `learning_rate`) are given and donates the state. `sums` holds float32[steps] each, to be
        read with `fetch`; only the entries from start to stop are filled. All steps of `order` may go in one
        dispatch where `many_steps`, one elsewhere. `data` is a split's arrays from `replicate`, or, for a
        single step, its batch from `place_batch`.
        """

        def run(state, data, order, hyperparameters, start, stop):
            def body(index, carry):
                state, history = carry
                now = {name: values[index] for name, values in hyperparameters.items()}
                state, sums = train_step(state, self._batch(data, order[index]), now)
                return state, {name: history[name].at[index].set(sums[name]) for name in SUMS}

            return self._repeat(body, start, stop, (state, self._no_sums(order)))

        return self._compile(run, in_axes=(0, 0, 0, None, None, None), donate_argnums=0)

    def compile_evaluate(self, predict_step: Callable) -> Callable:
        """Returns `run(variables, data, order, start, stop) -> sums`, like compile_train's; -1 is padding."""

        def run(variables, data, order, start, stop):
            def body(index, history):
                batch = self._batch(data, order[index])
                sums = evaluation_sums(predict_step(variables, batch), batch)
                if self.axis_name is not None:
                    sums = jax.lax.psum(sums, self.axis_name)
                return {name: history[name].at[index].set(sums[name]) for name in SUMS}

            return self._repeat(body, start, stop, self._no_sums(order))

        return self._compile(run, in_axes=(0, 0, 0, None, None))

    def compile_predict(self, predict_step: Callable) -> Callable:
        """Returns `run(variables, data, order, index) -> logits` of row `index`, float32[batch, classes]."""

        def run(variables, data, order, index):
            return predict_step(variables, self._batch(data, order[index]))

        if self.axis_name is None:
            return jax.jit(run)
        mapped = jax.pmap(run, AXIS, in_axes=(0, 0, 0, None), devices=self.devices)
        return lambda *args: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), mapped(*args))

    def fetch(self, tree: Any) -> Any:
        """Waits for what a compiled function returned for all devices alike and returns NumPy arrays."""
        one = tree if self.axis_name is None else jax.tree.map(lambda x: x.addressable_data(0)[0], tree)
        return jax.device_get(one)

    def _compile(self, run, *, in_axes, donate_argnums=()):
        if self.axis_name is None:
            return jax.jit(run, donate_argnums=donate_argnums, out_shardings=self._replicated)
        return jax.pmap(run, AXIS, in_axes=in_axes, donate_argnums=donate_argnums, devices=self.devices)

    def _repeat(self, body, start, stop, carry):
        # A loop whose bounds are arguments: any number of steps without compiling again.
        return jax.lax.fori_loop(start, stop, body, carry) if self.many_steps else body(start, carry)

    def _no_sums(self, order):
        return {name: jnp.zeros(len(order)) for name in SUMS}

    def _batch(self, data, indices):
        position = jnp.arange(indices.size, dtype=jnp.int32)
        if self.axis_name is not None:
            position += jax.lax.axis_index(self.axis_name) * indices.size
        if isinstance(data, StreamedBatch):
            batch = data.arrays
        else:
            rows = jnp.maximum(indices, 0)
            batch = {name: array.at[rows].get(mode='clip') for name, array in data.items()}
        return {**batch, 'position': position, 'valid': indices >= 0}


def _available_bytes() -> float:
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
    except OSError:
        return math.inf  # not Linux
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable'))


def _keep_freed_memory() -> None:
    """Makes the C library keep the memory that a step frees for the next one.

    XLA allocates each step's arrays anew on a CPU. Pages fresh from the system cost a seventh of a step.
    """
    if platform.libc_ver()[0] == 'glibc':
        mallopt = ctypes.CDLL(None).mallopt
        m_arena_max, m_mmap_max, m_trim_threshold = -8, -4, -1
        mallopt(m_arena_max, 1)
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
