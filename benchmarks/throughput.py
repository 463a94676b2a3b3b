"""How fast a model trains here: images per second, utilisation, time to first step, and PyTorch beside it.

Command: python benchmarks/throughput.py [--model=resnet18] [--width=64] [--batch_size=512] …

Times the step and the loop that train.py runs, with the augmentation and the loss of configs/resnet18.py and
with SGD, on random images. Where PyTorch is installed, its step (the same model, loss, optimizer, batch and
precision, no augmentation) is timed in turn with ours: each round holds an epoch of our loop, the same number
of bare steps of ours, and as many of PyTorch's, which has a process of its own: in one process both would
share a heap, and our settings of it. Printed are the medians of the rounds. Run it on an idle machine
(`load_before` near 0): where cores are shared, PyTorch's threads suffer more than XLA's.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs import resnet18
from input_pipeline import normalization
from input_pipeline.sources import Dataset, Split
from jax_models import MODELS, summary
from training.checkpoints import Checkpoints
from training.console import Console
from training.experiment import Experiment, create_experiment
from training.host_memory import keep_freed_memory, use_huge_pages
from training.loop import Training
from training.resolve import resolve
from training.tracking import Tracker

SIDE, CLASSES = 32, 10
RATE = 0.01  # low enough for random labels


def main():
    # Leaves memory of a GPU to PyTorch and to the processes that time the first step.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    arguments = parse_arguments()
    if arguments.first_step:
        bare_steps(create(arguments, epochs=1))(1)
        return
    if arguments.pytorch:
        run = torch_steps(create(arguments, epochs=1))
        for _ in sys.stdin:
            run(arguments.steps)
            print(flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    for name, value in result.items():
        print(f'{name:<26}', f'{value:,.4g}' if isinstance(value, float) else value)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + '\n')


def measure(arguments: argparse.Namespace, folder: Path) -> dict:
    jax.config.update('jax_compilation_cache_dir', str(folder / 'compilation'))
    experiment = create(arguments, epochs=arguments.repeats + 1)
    config = experiment.config
    result = {
        'device': jax.devices()[0].device_kind,
        'load_before': os.getloadavg()[0],
        'jax': jax.__version__,
        'model': config.model.name,
        'width': config.model.width,
        'batch_size': config.batch_size,
        'precision': config.precision,
        'convolution': config.model.convolution,
    }
    if not arguments.skip_first_step:
        for name in ('cold', 'cached'):
            result[f'first_step_{name}_seconds'] = time_first_step(folder / 'first')
    peak = matmul_flops(config.precision)
    with torch_process(config, experiment.steps) if find_spec('torch') else nullcontext() as pytorch:
        result |= time_rounds(experiment, pytorch, folder / 'run')
    achieved = step_flops(experiment) / result['step_milliseconds'] * 1000
    return result | {
        'model_tflops_a_second': achieved / 1e12,
        'matmul_tflops_a_second': peak / 1e12,
        'utilisation': achieved / peak,
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    if '--pytorch' not in sys.argv:
        keep_freed_memory()  # before the next line starts JAX's threads
    gpu = jax.default_backend() == 'gpu'
    models = [name for name in MODELS if re.fullmatch(r'resnet\d+', name)]
    parser.add_argument('--model', default='resnet18', choices=models)
    parser.add_argument('--width', type=int, default=64, help='channels of the first stage')
    parser.add_argument('--batch_size', type=int, default=512 if gpu else 128, help='images a step')
    parser.add_argument('--precision', default='auto', choices=('auto', 'float32', 'bfloat16'))
    parser.add_argument('--convolution', default='auto', choices=('auto', 'xla', 'winograd', 'onednn'))
    parser.add_argument('--steps', type=int, default=200 if gpu else 5, help='steps a round')
    parser.add_argument('--repeats', type=int, default=7, help='rounds, after one of warm-up')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the figures there')
    parser.add_argument('--skip_first_step', action='store_true', help='do not time the first step')
    for process in ('--first_step', '--pytorch'):  # what this one starts itself
        parser.add_argument(process, action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args()


def create(arguments: argparse.Namespace, *, epochs: int) -> Experiment:
    """Returns what train.py would run, on random images: an epoch is a round."""
    config = resnet18.get_config()
    config.epochs, config.batch_size, config.precision = epochs, arguments.batch_size, arguments.precision
    config.model.name, config.model.width = arguments.model, arguments.width
    config.model.convolution = arguments.convolution
    config.dataset.validation = 0
    config.schedule.warmup_epochs, config.checkpoint.every_epochs = 0.0, 0
    config.optimizer.name, config.optimizer.weight_decay = 'sgd', 5e-4  # which PyTorch has too
    config.optimizer.learning_rate = RATE

    random = np.random.default_rng(0)

    def split(name, size):
        images = random.integers(0, 256, (size, SIDE, SIDE, 3), np.uint8)
        labels = random.integers(0, CLASSES, size, np.int32)
        return Split(images, labels, np.array([f'{name}-{index}' for index in range(size)]))

    splits = {
        'train': split('train', arguments.steps * arguments.batch_size),
        'test': split('test', arguments.batch_size),
    }
    names = tuple(str(label) for label in range(CLASSES))
    dataset = Dataset('cifar10', 'random', names, (SIDE, SIDE, 3), splits)
    devices = jax.devices()[:1]
    return create_experiment(resolve(config, devices), devices, dataset)


def time_first_step(cache: Path) -> float:
    """Returns the seconds from starting Python to the end of the first step, in a process of its own."""
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache)}
    started = time.perf_counter()
    subprocess.run([sys.executable, *sys.argv, '--first_step'], env=environment, check=True)
    return time.perf_counter() - started


def bare_steps(experiment: Experiment) -> Callable[[int], None]:
    """Returns `run(steps)`, which waits for so many steps of the compiled program and nothing else."""
    execution, batch_size = experiment.execution, experiment.config.batch_size
    run_train = execution.compile_train(experiment.train_step())
    state = execution.replicate(experiment.create_state())
    data = execution.replicate(experiment.loaders['train'].arrays)
    rows = np.arange(experiment.steps * batch_size, dtype=np.int32).reshape(-1, batch_size)
    order, rates = execution.place_order(rows), {'learning_rate': jnp.full(len(rows), RATE)}
    compiled = execution.compile_ahead(run_train, state, data, order, rates, 0, 1)

    def run(steps):
        nonlocal state
        stride = steps if execution.many_steps else 1
        for start in range(0, steps, stride):
            state, sums = compiled(state, data, order, rates, start, start + stride)
        execution.fetch(sums)

    return run


def torch_steps(experiment: Experiment) -> Callable[[int], None]:
    """Returns the same for PyTorch: channels_last, and on a GPU torch.compile and a fused optimizer."""
    import torch
    from torch.nn.functional import cross_entropy

    from tests.parity.torch_models import ResNet

    config = experiment.config
    gpu = torch.cuda.is_available()
    device = torch.device('cuda' if gpu else 'cpu')
    model = ResNet(
        name=config.model.name, num_classes=CLASSES, width=config.model.width, stem=config.model.stem
    )
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=gpu
    )
    arrays = experiment.loaders['train'].arrays
    mean, std = (
        torch.tensor(values, device=device).reshape(3, 1, 1)
        for values in normalization.constants(config.dataset.normalization, experiment.dataset)
    )
    images = torch.from_numpy(arrays['image']).to(device).permute(0, 3, 1, 2)  # channels_last in memory
    labels = torch.from_numpy(arrays['label']).to(device).long()

    def loss_of(images, labels):
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == 'bfloat16'):
            logits = model((images.float() / 255 - mean) / std)
        return cross_entropy(logits.float(), labels, label_smoothing=config.loss.label_smoothing)

    compiled = torch.compile(loss_of) if gpu else loss_of
    size = config.batch_size

    def run(steps):
        for start in range(0, steps * size, size):
            optimizer.zero_grad(set_to_none=True)
            loss = compiled(images[start : start + size], labels[start : start + size])
            loss.backward()
            optimizer.step()
        loss.item()

    return run


@contextmanager
def torch_process(config, steps: int) -> Iterator[Callable[[], None]]:
    """Starts a process and yields `run()`, which waits for so many of PyTorch's steps there."""
    chosen = {'precision': config.precision, 'batch_size': config.batch_size, 'steps': steps}
    command = [sys.executable, *sys.argv, '--pytorch', *(f'--{k}={v}' for k, v in chosen.items())]
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}  # JAX only makes the images there
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, bufsize=1, **pipes) as process:

        def run():
            process.stdin.write('\n')
            if not process.stdout.readline():
                raise SystemExit("PyTorch's process has ended")

        yield run


class Rounds(Console):
    """Sees the loop's epochs begin and end, and lets others run between them, off the loop's clock."""

    def __init__(self, others: dict[str, Callable[[], None]]):
        super().__init__()
        self.others = others
        self.seconds: dict[str, list[float]] = {name: [] for name in ('loop', *others)}

    def start_epoch(self, epoch, epochs, steps):
        self.started = time.perf_counter()
        super().start_epoch(epoch, epochs, steps)

    def epoch_line(self, record, epochs, *, best):
        self.seconds['loop'].append(time.perf_counter() - self.started)
        for name, run in self.others.items():
            started = time.perf_counter()
            run()
            self.seconds[name].append(time.perf_counter() - started)
        line = (f'{name} {seconds[-1]:.3f} s' for name, seconds in self.seconds.items())
        self.print(f'round {record["epoch"] - 1}/{epochs - 1}  ' + '  '.join(line))


def time_rounds(experiment: Experiment, pytorch: Callable[[], None] | None, folder: Path) -> dict:
    """Runs the real loop with bare steps and PyTorch's in between; the first round warms up."""
    config, steps, run = experiment.config, experiment.steps, bare_steps(experiment)
    rounds = Rounds({'step': lambda: run(steps)} | ({'pytorch': pytorch} if pytorch else {}))
    Training(
        experiment,
        folder,
        checkpoints=Checkpoints(folder / 'checkpoints'),
        console=rounds,
        tracker=Tracker(folder, config.wandb, config.to_dict()),
    ).run()
    seconds = {name: np.array(values[1:]) for name, values in rounds.seconds.items()}
    speed = {name: steps * config.batch_size / np.median(values) for name, values in seconds.items()}
    result = {
        'step_milliseconds': 1000 * float(np.median(seconds['step'])) / steps,
        'images_per_second': float(speed['step']),
        'loop_images_per_second': float(speed['loop']),
        'loop_overhead': float(np.median(seconds['loop'] / seconds['step'])) - 1,
    }
    if pytorch:
        result |= {
            'pytorch': version('torch'),
            'pytorch_images_per_second': float(speed['pytorch']),
            'times_pytorch': float(np.median(seconds['pytorch'] / seconds['step'])),
        }
    return result


def matmul_flops(precision: str) -> float:
    """Returns the floating-point operations a second of the fastest of ten large matrix products."""
    side = 8192 if jax.default_backend() == 'gpu' else 2048
    a, b = jax.random.normal(jax.random.key(0), (2, side, side), jnp.dtype(precision))
    product = jax.jit(jnp.matmul)
    seconds = least_seconds({'product': lambda: product(a, b).block_until_ready()}, repeats=10)
    return 2 * side**3 / seconds['product']


def least_seconds(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Returns the least time of each function; they take turns, and a first call is not counted."""
    least = dict.fromkeys(functions, float('inf'))
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if repeat:
                least[name] = min(least[name], time.perf_counter() - started)
    return least


def step_flops(experiment: Experiment) -> float:
    """Returns a step's: three times the forward pass's, as summary.ModuleInfo counts it."""
    parts = summary.modules(experiment.model, experiment.dataset.image_shape)
    return 3 * sum(part.flops for part in parts) * experiment.config.batch_size


if __name__ == '__main__':
    use_huge_pages()
    main()
