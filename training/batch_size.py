"""Finds a batch size by trying: doubles it until the device is full or gains nothing more."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from input_pipeline.loaders import Resident
from training import ConfigError
from training import config as configuration
from training.console import Console
from training.experiment import Experiment, create_experiment
from training.host_memory import is_out_of_memory
from training.resolve import resolve
from training.schedules import Plateau, hyperparameters

FIRST = 32
SECONDS = 2.0  # of measuring each size, at least
STEPS = 64  # in a dispatch, at most, unless config.steps_per_dispatch says how many
ENOUGH = 0.95  # a size is good enough that reaches this share of the best speed


@dataclass
class Trial:
    """What one batch size gave: images per second, and bytes on each device (of XLA's own plan)."""

    batch_size: int
    images_per_second: float
    bytes: int


def find_batch_size(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> int:
    """Times the real training step with growing batch sizes and prints a table and a recommendation.

    Sizes are doubled from 32 (or two images for each device and accumulation step) until memory
    runs out, the training images do, or two doublings in a row have gained less than 5 %. Recommended is
    the smallest size within 5 % of the highest speed: a larger one costs memory and gives fewer steps.

    Args:
      config: as configs/default.py declares it; its batch_size is not used. Data is loaded once.
      devices: to run on; all by default.

    Returns:
      The recommended batch size.

    Raises:
      ConfigError, DataError: as training.run.run; ConfigError too where no size at all fits, and in one of
        several processes.
    """
    if jax.process_count() > 1:
        raise ConfigError(
            '--find_batch_size: measures the devices of one process; start it without a launcher'
        )
    configuration.check(config)
    devices = devices or jax.devices()
    config, console = resolve(config, devices), Console()
    before = config.batch_size
    config.batch_size = unit = len(devices) * config.optimizer.accumulation_steps
    experiment = create_experiment(config, devices)
    loader = experiment.loaders['train']
    data = experiment.execution.place_data(loader.arrays) if isinstance(loader, Resident) else None
    trials, reason = [], f'the {loader.size:,} training images are no more'
    batch_size = max(min(-(-FIRST // unit), loader.size // unit), 2) * unit
    if batch_size > loader.size:
        reason = f'two images for each device and accumulation step are {batch_size}, of {loader.size}'
    while batch_size <= loader.size:
        try:
            trial = _try(experiment, batch_size, data)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            # XLA says of kernels none of which finds room only that it cannot tune them.
            if not is_out_of_memory(error) and not (trials and 'Autotuning failed' in str(error)):
                raise
            reason = f'{batch_size:,} do not fit in memory'
            if not trials:
                reason += '; make config.model.width smaller'
            break
        trials.append(trial)
        console.print(f'batch {trial.batch_size:,}: {trial.images_per_second:,.0f} images per second')
        if len(trials) > 2 and max(t.images_per_second for t in trials[-2:]) < (
            trials[-3].images_per_second / ENOUGH
        ):
            reason = 'two doublings in a row gained less than 5 %'
            break
        batch_size *= 2
    if not trials:
        raise ConfigError(f'no batch size can be tried: {reason}')
    best = max(trial.images_per_second for trial in trials)
    chosen = next(t.batch_size for t in trials if t.images_per_second >= ENOUGH * best)
    console.print(_table(trials, chosen, experiment.execution.name))
    console.print(f'Stopped since {reason}. Recommended: --config.batch_size={chosen}')
    if chosen != before:
        console.print(f'The config is for {before}: another size may need another learning rate.')
    return chosen


def _try(experiment: Experiment, batch_size: int, data: Any) -> Trial:
    """Compiles and times the step, on the same batch again and again, in dispatches as training has.

    Args:
      data: the training split on the devices; None: it is streamed.

    Raises:
      MemoryError: it would not fit in the memory of this machine (a CPU's process would be killed).
      JaxRuntimeError: it does not fit on the device.
    """
    execution = experiment.execution
    many = execution.many_steps and data is not None
    most = (experiment.config.steps_per_dispatch or STEPS) if many else 1
    order = execution.place_order(np.tile(np.arange(batch_size, dtype=np.int32), (most, 1)))
    values = hyperparameters(experiment.config, most, 0, Plateau())
    rates = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
    state = execution.replicate(experiment.create_state())
    if data is None:
        data = execution.place_batch(experiment.loaders['train'].take(np.arange(batch_size)))
    run_train = execution.compile_train(experiment.train_step())
    step = execution.compile_ahead(run_train, state, data, order, rates, 0, 1)
    plan = step.memory_analysis()
    needed = plan.argument_size_in_bytes + plan.temp_size_in_bytes
    if execution.devices[0].platform == 'cpu' and needed > execution.free_bytes():
        raise MemoryError

    def run(count: int) -> float:
        nonlocal state
        started = time.perf_counter()
        state, sums = step(state, data, order, rates, 0, count)
        execution.fetch(sums)
        return time.perf_counter() - started

    run(1)
    count = int(np.clip(SECONDS / 4 / run(1), 1, most))
    seconds = [run(count)]
    while sum(seconds) < SECONDS or len(seconds) < 3:
        seconds.append(run(count))
    return Trial(batch_size, batch_size * count / float(np.median(seconds)), needed)


def _table(trials: Sequence[Trial], chosen: int, device: str) -> Table:
    table = Table(title=f'{device}: the training step', title_justify='left')
    for name in ('batch size', 'images per second', 'memory per device'):
        table.add_column(name, justify='right')
    for trial in trials:
        row = f'{trial.batch_size:,}', f'{trial.images_per_second:,.0f}', f'{trial.bytes / 2**20:,.0f} MiB'
        table.add_row(*row, style='bold' if trial.batch_size == chosen else None)
    return table
