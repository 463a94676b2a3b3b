"""What the devices say to each other in a training step, and how training scales by it.

Command: python benchmarks/scaling.py [--config=resnet18] [--parallel=jit] [--step_milliseconds=20] …

Compiles the training step of a config for simulated CPU devices and reads its collective operations from the
program: number and bytes, of gradients and of batch norm apart. The bytes are those of a GPU, whose compiler
fuses reductions too, but may leave them in several pieces. Then prints a model of weak scaling, in which the
batch per device stays and the devices multiply, with its assumptions, from the time that a step takes on one
device of this machine; where that is a CPU, from an assumed one of a GPU too.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

BYTES = {'f64': 8, 's64': 8, 'f32': 4, 's32': 4, 'u32': 4, 'bf16': 2, 'f16': 2, 'u8': 1, 's8': 1, 'pred': 1}
COLLECTIVE = re.compile(
    r'= (?P<shapes>\(.*?\)|\S+) (?P<name>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)'
    r'(?:-start)?\('
)
SMALL = 64 * 1024  # bytes: below it an operation takes its latency, whatever it carries
ASSUMED_MILLISECONDS = 20.0  # of a step, where there is no GPU to time one on
TIMED_STEPS = {'gpu': 20, 'cpu': 2}


@dataclass
class Collective:
    """One operation of a program: its kind, the arrays it carries, and their bytes."""

    name: str
    arrays: int
    bytes: int


@dataclass
class Network:
    """Several devices and the slowest link between them.

    Attributes:
      bandwidth: bytes per second and device of a ring over all of them.
      latency: seconds of a reduction, whatever it carries.
    """

    name: str
    devices: int
    bandwidth: float
    latency: float


GPUS = 8  # in a node
# NVLink 4: 450 GB/s each way and GPU, of which NCCL's rings reach some 80 %. A node's GPUs share its network
# cards, one of the given speed in each node, and NCCL's rings reach some 85 % of it.
NETWORKS = (
    Network('1 node, NVLink', GPUS, 360e9, 20e-6),
    Network('64 nodes, 100 Gb/s', 64 * GPUS, 0.85 * 100e9 / 8, 60e-6),
    Network('64 nodes, 400 Gb/s', 64 * GPUS, 0.85 * 400e9 / 8, 60e-6),
)


def main():
    arguments = parse_arguments()
    if arguments.time_step:
        print(json.dumps(time_step(arguments)))
        return
    if arguments.step_milliseconds is None:
        # In a process of its own: this one sees simulated CPU devices only.
        command = [sys.executable, *sys.argv, '--time_step']
        timed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        times = json.loads(timed.splitlines()[-1])
    else:
        times = [(arguments.step_milliseconds, 'given')]
    os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={arguments.devices}'
    os.environ['JAX_PLATFORMS'] = 'cpu'
    show(arguments, collectives(compiled_step(arguments)), times)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--config', default='resnet18', help='name of a file in configs/')
    parser.add_argument('--parallel', choices=('jit', 'pmap'), default='jit')
    parser.add_argument('--per_device', action='store_true', help='batch norm per device')
    parser.add_argument('--devices', type=int, default=8, help='simulated ones to compile for')
    parser.add_argument('--width', type=int, default=0, help='of the model; 0: the config says')
    parser.add_argument('--classes', type=int, default=10, help='of the dataset')
    parser.add_argument(
        '--step_milliseconds', type=float, help='of one device alone; default: timed on this machine'
    )
    parser.add_argument('--time_step', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args()


def create(arguments, *, simulated: bool):
    """Returns the config's experiment on images of zeros: one batch, small for `simulated` devices."""
    import jax
    import numpy as np

    from input_pipeline.sources import Dataset, Split
    from training.experiment import create_experiment
    from training.resolve import resolve

    config = import_module(f'configs.{arguments.config}').get_config()
    config.parallel, config.batch_norm.sync = arguments.parallel, not arguments.per_device
    config.model.width = arguments.width or config.model.width
    if simulated:
        config.batch_size = 8 * arguments.devices * config.optimizer.accumulation_steps  # does not matter
    config.dataset.validation, config.dataset.normalization = 0.0, 'half'
    config.dataset.validation_split, config.dataset.test_split = '', 'test'
    config.verification.pairs = ''
    side = config.dataset.image_size or 32
    images = np.zeros((config.batch_size, side, side, 3), np.uint8)
    split = Split(images, np.zeros(len(images), np.int32), np.arange(len(images)).astype(str))
    classes = tuple(map(str, range(arguments.classes)))
    dataset = Dataset('zeros', '', classes, (side, side, 3), {'train': split, 'test': split})
    devices = jax.devices() if simulated else jax.devices()[:1]
    return create_experiment(resolve(config, devices), devices, dataset)


def prepared(experiment):
    """Returns the compiled training step's function, a state, and its other arguments."""
    import jax.numpy as jnp
    import numpy as np

    execution = experiment.execution
    state = execution.replicate(experiment.create_state())
    data = execution.place_data(experiment.loaders['train'].arrays)
    order = execution.place_order(np.arange(experiment.config.batch_size, dtype=np.int32)[None])
    rates = {'learning_rate': jnp.full(1, 0.1)}
    return execution.compile_train(experiment.train_step()), state, (data, order, rates, 0, 1)


def compiled_step(arguments) -> str:
    """Returns the optimised program of a training step, as HLO text."""
    step, state, rest = prepared(create(arguments, simulated=True))
    return step.lower(state, *rest).compile().as_text()


def time_step(arguments) -> list[tuple[float, str]]:
    """Returns the milliseconds of a training step, and where they are from."""
    import jax

    from training.host_memory import keep_freed_memory

    keep_freed_memory()
    experiment = create(arguments, simulated=False)
    step, state, rest = prepared(experiment)
    steps = TIMED_STEPS[jax.default_backend()]
    for number in range(2 * steps):
        if number == steps:  # the first half warms up
            jax.block_until_ready(state)
            started = time.perf_counter()
        state, _ = step(state, *rest)
    jax.block_until_ready(state)
    milliseconds = 1000 * (time.perf_counter() - started) / steps
    times = [(milliseconds, f'measured: {experiment.execution.name}, batch {experiment.config.batch_size}')]
    if jax.default_backend() == 'cpu':
        times.append((ASSUMED_MILLISECONDS, 'ASSUMED of a GPU, which this machine has not'))
    return times


def collectives(program: str) -> list[Collective]:
    """Returns the operations in which devices exchange data, from HLO text."""
    found = []
    for match in COLLECTIVE.finditer(program):
        arrays = re.findall(r'(\w+)\[([\d,]*)\]', match['shapes'])
        sizes = [
            BYTES[dtype] * math.prod(map(int, filter(None, shape.split(',')))) for dtype, shape in arrays
        ]
        found.append(Collective(match['name'], len(sizes), sum(sizes)))
    return found


def step_seconds(alone: float, operations: list[Collective], network: Network, overlap: float) -> float:
    """Returns a step's time on a network, from that of one device alone.

    Every operation takes the network's latency, and a ring sends and receives 2 (n - 1) / n of a reduction's
    bytes at each device. The share `overlap` of the time of large reductions hides behind the backward pass;
    batch norm's small ones wait for each other.
    """
    rounds = 2 * (network.devices - 1) / network.devices
    large = [operation.bytes for operation in operations if operation.bytes > SMALL]
    small = len(operations) - len(large)
    sending = len(large) * network.latency + rounds * sum(large) / network.bandwidth
    return alone + small * network.latency + (1 - overlap) * sending


def show(arguments, operations: list[Collective], times: list[tuple[float, str]]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    small = [operation for operation in operations if operation.bytes <= SMALL]
    large = [operation for operation in operations if operation.bytes > SMALL]
    console.print(f'{arguments.config}, {arguments.parallel}, {arguments.devices} devices, each step:')
    for operation in large:
        console.print(f'  {operation.name} of {operation.arrays} arrays, {operation.bytes:,} bytes')
    total = sum(operation.bytes for operation in small)
    console.print(f'  {len(small)} below {SMALL // 1024} KiB (batch norm, sums), {total:,} bytes together')

    for milliseconds, source in times:
        console.print(scaling_table(milliseconds, source, operations))
    for network in NETWORKS:
        console.print(
            f'{network.name}: {network.bandwidth / 1e9:.1f} GB/s along the ring, '
            f'{1e6 * network.latency:.0f} us of latency for each reduction'
        )
    console.print(
        'Assumed: the bandwidth of a ring over all devices, 2 (n - 1) / n of the bytes on each link, and '
        'the latency of a tree; small reductions one after the other, never hidden; large ones hidden by the '
        'backward pass not at all, or by half; '
        'no waiting for data or for slower devices.'
    )


def scaling_table(milliseconds: float, source: str, operations: list[Collective]):
    from rich.table import Table

    alone = milliseconds / 1000
    title = f'Weak scaling from {milliseconds:,.0f} ms a step on one device ({source})'
    table = Table(title=title, title_justify='left')
    for name in ('network', 'devices', 'ms a step', 'efficiency', 'with half hidden'):
        table.add_column(name, justify='left' if name == 'network' else 'right')
    for network in NETWORKS:
        seconds, hidden = (step_seconds(alone, operations, network, overlap) for overlap in (0.0, 0.5))
        efficiencies = f'{alone / seconds:.1%}', f'{alone / hidden:.1%}'
        table.add_row(network.name, str(network.devices), f'{1000 * seconds:,.1f}', *efficiencies)
    return table


if __name__ == '__main__':
    main()
