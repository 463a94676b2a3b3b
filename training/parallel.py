"""How steps are executed: under jit over a mesh or under pmap, one or many in a dispatch.

The only module that knows where arrays live. The rest hands over plain arrays and pure steps, and gets
plain arrays back. Of several processes each hands over the same arrays and gets the same back.
"""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from training import ConfigError
from training.host_memory import available_bytes, return_large_blocks, take_holes
from training.processes import count_on_this_machine
from training.steps import SUMS, evaluation_sums

AXIS = 'batch'
REPLICATED_SHARE = 1 / 4  # of the free memory for each device, which copies of a split may take; else sharded


@flax.struct.dataclass
class Sharded:
    """Arrays of a split, by name, of which every device holds an equal part of the rows."""

    arrays: dict[str, jax.Array]


@flax.struct.dataclass
class StreamedBatch:
    """A batch, divided among the devices, for a compiled function in the place of a whole split's arrays."""

    arrays: dict[str, jax.Array]


class Execution:
    """Places arrays and compiles steps for all devices.

    Attributes:
      devices: those in use.
      own_devices: those of them that belong to this process.
      axis_name: what a step must average over (pmap), None under jit.
      device_count: number of devices; the global batch must be divisible by it.
      process_count: number of processes that these belong to.
      is_main: whether this is the process that writes and prints.
      many_steps: whether a dispatch may hold many steps. On a CPU it may not: XLA runs convolutions
        inside loops on one thread there, hundreds of times slower.
    """

    def __init__(
        self,
        parallel: str,
        devices: Sequence[jax.Device] | None = None,
        *,
        compiler_options: dict[str, bool | str] | None = None,
    ):
        """`parallel` is jit or pmap; `devices` are all by default; `compiler_options` are XLA's, for jit.

        All processes must call it. Raises ConfigError where they have unequal numbers of devices.
        """
        self.axis_name = AXIS if parallel == 'pmap' else None
        self.devices = list(devices or jax.devices())
        self.device_count = len(self.devices)
        self.own_devices = [d for d in self.devices if d.process_index == jax.process_index()]
        counts = collections.Counter(device.process_index for device in self.devices)
        if len(set(counts.values())) > 1:
            listed = ', '.join(str(count) for _, count in sorted(counts.items()))
            raise ConfigError(
                f'the processes have unequal numbers of devices ({listed}): give each as many as the others'
            )
        self.process_count = len(counts)
        self.is_main = jax.process_index() == 0
        self.many_steps = self.devices[0].platform != 'cpu'
        self._compiler_options = compiler_options
        self._mesh = Mesh(np.array(self.devices), (AXIS,))
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._by_device = NamedSharding(self._mesh, PartitionSpec(AXIS))
        self._by_column = NamedSharding(self._mesh, PartitionSpec(None, AXIS))
        self._maximum = jax.jit(lambda rows: rows.max(0), out_shardings=self._replicated)

    @property
    def name(self) -> str:
        """Such as '8 x NVIDIA H100 in 2 processes'."""
        processes = f' in {self.process_count} processes' if self.process_count > 1 else ''
        return f'{self.device_count} x {self.devices[0].device_kind}{processes}'

    def batch_norm(self, *, sync: bool) -> dict[str, Any]:
        """Returns what a model needs for statistics over the global batch, or over each device's part."""
        if self.axis_name is None:
            return {'batch_norm_groups': 1 if sync else self.device_count}
        return {'axis_name': self.axis_name if sync else None}

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of every array on every device. Takes the arrays over: do not use them afterwards."""
        if self.axis_name is None:
            return self._place(tree, self._replicated)
        copies = jax.tree.map(lambda x: np.broadcast_to(x, (self.device_count, *x.shape)), tree)
        return self._place(copies, self._by_device)

    def unreplicate(self, tree: Any) -> Any:
        """Returns a plain tree of what `replicate` placed, which outlives the donation of `tree`."""
        if self.axis_name is None:
            return _copy(tree)

        def join(x):
            copies = [shard.data[0] for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape[1:], self._replicated, copies)

        return jax.tree.map(join, tree)

    def place_data(self, arrays: dict[str, np.ndarray]) -> Any:
        """Puts a split on the devices: a copy on each, or where that takes too much memory a part.

        Rows are then sent to where they are needed, which is a batch's bytes for every device and step.
        """
        if self.device_count > 1:
            free = self._least(self._device_bytes()) / self.device_count
            if sum(x.nbytes for x in arrays.values()) > REPLICATED_SHARE * free:
                return Sharded({name: self._split(x) for name, x in arrays.items()})
        return self.replicate(arrays)

    def place_order(self, order: np.ndarray) -> jax.Array:
        """Splits rows of indices, int32[steps, batch], among the devices by column."""
        if self.axis_name is None:
            return self._place(order, self._by_column)
        by_device = order.reshape(len(order), self.device_count, -1).swapaxes(0, 1)
        return self._place(by_device, self._by_device)

    def maximum(self, values: Sequence[float]) -> np.ndarray | jax.Array:
        """Begins to compute the largest of each of these numbers among the processes.

        They may differ here. Reading the result, float32[n], with np.asarray waits for all processes.
        """
        row = np.array([values], np.float32)
        if self.process_count == 1:
            return row[0]
        shape = (self.device_count, len(values))
        return self._maximum(jax.make_array_from_callback(shape, self._by_device, lambda _: row))

    @property
    def part(self) -> tuple[int, int]:
        """Which part of each batch this process is to place, of how many."""
        return (jax.process_index(), self.process_count) if self.process_count > 1 else (0, 1)

    def place_batch(self, batch: dict[str, np.ndarray]) -> StreamedBatch:
        """Begins to divide this process's part of a batch among its devices."""
        if self.axis_name is not None:
            count = self.device_count // self.process_count
            batch = {name: x.reshape(count, -1, *x.shape[1:]) for name, x in batch.items()}
        if self.process_count == 1:
            return StreamedBatch(jax.device_put(batch, self._by_device))
        return StreamedBatch(jax.make_array_from_process_local_data(self._by_device, batch))

    def free_bytes(self) -> float:
        """Returns the memory that is free on all devices together, or in the machine where that is less.

        The same in all processes, each of which must call this.
        """
        # What is sent to devices is on the host first, a copy in each process.
        return self._least(min(available_bytes() / count_on_this_machine(), self._device_bytes()))

    def _device_bytes(self) -> float:
        if self.devices[0].platform == 'cpu':
            return available_bytes()
        return self.device_count * _free_bytes(self.own_devices)

    def _least(self, value: float) -> float:
        """Returns the least of all processes' values."""
        return -float(np.asarray(self.maximum([-value]))[0])

    def compile_train(self, train_step: Callable) -> Callable:
        """Returns `run(state, data, order, hyperparameters, start, stop) -> state, sums`.

        Runs steps `start` to `stop` of the epoch whose order and hyperparameters (a dict of float32[steps],
        such as `learning_rate`) are given and donates the state. `sums` holds float32[steps] each, to be
        read with `fetch`; only the entries from start to stop are filled. All steps of `order` may go in one
        dispatch where `many_steps`, one elsewhere. `data` is a split from `place_data`, or, for a single
        step, its batch from `place_batch`. It can be lowered and compiled ahead, as jax.jit's functions.
        """

        def run(state, data, order, hyperparameters, start, stop):
            def body(index, carry):
                state, history = carry
                now = {name: values[index] for name, values in hyperparameters.items()}
                state, sums = train_step(state, self._batch(data, order[index]), now)
                return state, {name: history[name].at[index].set(sums[name]) for name in SUMS}

            return self._repeat(body, start, stop, (state, self._no_sums(order)), data)

        return self._compile(run, in_axes=(0, 0, 0, None, None, None), donate_argnums=0)

    def compile_ahead(self, run: Callable, *arguments: Any) -> jax.stages.Compiled:
        """Compiles what compile_train returned for arguments like these, before the first step."""
        compiled = run.lower(*arguments).compile()
        if self.devices[0].platform == 'cpu':
            return_large_blocks(compiled.memory_analysis().temp_size_in_bytes)
            take_holes()
        return compiled

    def compile_evaluate(self, predict_step: Callable) -> Callable:
        """Returns `run(variables, data, order, start, stop) -> sums`, like compile_train's; -1 is padding."""

        def run(variables, data, order, start, stop):
            def body(index, history):
                batch = self._batch(data, order[index])
                sums = evaluation_sums(predict_step(variables, batch), batch)
                if self.axis_name is not None:
                    sums = jax.lax.psum(sums, self.axis_name)
                return {name: history[name].at[index].set(sums[name]) for name in SUMS}

            return self._repeat(body, start, stop, self._no_sums(order), data)

        return self._compile(run, in_axes=(0, 0, 0, None, None))

    def compile_predict(self, predict_step: Callable) -> Callable:
        """Returns `run(variables, data, order, index) -> predictions` of row `index`, float32[batch, d].

        To be read with `fetch`.
        """

        def run(variables, data, order, index):
            rows = predict_step(variables, self._batch(data, order[index]))
            return rows if self.axis_name is None else jax.lax.all_gather(rows, AXIS, tiled=True)

        return self._compile(run, in_axes=(0, 0, 0, None))

    def fetch(self, tree: Any) -> Any:
        """Waits for what a compiled function returned for all devices alike and returns NumPy arrays."""
        one = tree if self.axis_name is None else jax.tree.map(lambda x: x.addressable_data(0)[0], tree)
        return jax.device_get(one)

    def _compile(self, run, *, in_axes, donate_argnums=()):
        if self.axis_name is None:
            options = {'out_shardings': self._replicated, 'compiler_options': self._compiler_options}
            return jax.jit(run, donate_argnums=donate_argnums, **options)
        return jax.pmap(run, AXIS, in_axes=in_axes, donate_argnums=donate_argnums, devices=self.devices)

    def _repeat(self, body, start, stop, carry, data):
        if not self.many_steps or isinstance(data, StreamedBatch):
            return body(start, carry)  # one step; without a loop, for which a GPU's host would wait
        # A loop whose bounds are arguments: any number of steps without compiling again.
        return jax.lax.fori_loop(start, stop, body, carry)

    def _no_sums(self, order):
        return {name: jnp.zeros(len(order)) for name in SUMS}

    def _batch(self, data, indices):
        position = jnp.arange(indices.size, dtype=jnp.int32)
        if self.axis_name is not None:
            position += jax.lax.axis_index(self.axis_name) * indices.size
        rows = jnp.maximum(indices, 0)
        if isinstance(data, StreamedBatch):
            batch = data.arrays
        elif isinstance(data, Sharded):
            batch = self._collect(data.arrays, rows)
        else:
            batch = {name: array.at[rows].get(mode='clip') for name, array in data.items()}
        return {**batch, 'position': position, 'valid': indices >= 0}

    def _collect(self, arrays, rows):
        """Gathers each device's rows from the parts of all."""

        def exchange(arrays, rows):
            def collect(part):
                local = everyone - jax.lax.axis_index(AXIS) * len(part)
                here = ((local >= 0) & (local < len(part))).reshape(-1, *[1] * (part.ndim - 1))
                picked = jnp.where(here, part.at[local].get(mode='clip'), 0)
                return jax.lax.psum_scatter(picked, AXIS, tiled=True)

            everyone = jax.lax.all_gather(rows, AXIS, tiled=True)
            return jax.tree.map(collect, arrays)

        if self.axis_name is not None:
            return exchange(arrays, rows)
        by_device = PartitionSpec(AXIS)
        shard = jax.shard_map(
            exchange, mesh=self._mesh, in_specs=by_device, out_specs=by_device, check_vma=False
        )
        return shard(arrays, rows)

    def _place(self, tree, sharding):
        if self.process_count == 1:
            return jax.device_put(tree, sharding)

        def place(x):
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

        return jax.tree.map(place, tree)

    def _split(self, array):
        """Puts equal numbers of rows on the devices, the last of them filled up with zeros."""
        rows = -(-len(array) // self.device_count)
        shape = (rows * self.device_count, *array.shape[1:])
        parts = []
        for position, device in enumerate(self.devices):
            if device.process_index == jax.process_index():
                part = array[position * rows : (position + 1) * rows]
                part = np.concatenate([part, np.zeros((rows - len(part), *part.shape[1:]), part.dtype)])
                parts.append(jax.device_put(part if self.axis_name is None else part[None], device))
        if self.axis_name is not None:
            shape = (self.device_count, rows, *array.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, self._by_device, parts)


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _free_bytes(devices: Sequence[jax.Device]) -> float:
    """Returns the least memory that is free on one of these; infinity where it is not known."""
    statistics = [device.memory_stats() or {} for device in devices]
    return min(each.get('bytes_limit', math.inf) - each.get('bytes_in_use', 0) for each in statistics)
