"""What a run is warned of before it starts: allowed, but hardly meant."""

import math
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from jax_models import onednn
from jax_models.registry import stage_count
from training.experiment import Experiment
from training.host_memory import has_nvidia_gpu
from training.schedules import highest_rate, warmup_epochs

_SMALL = 64  # pixels, for the stem imagenet
# For the others: pixels from which on they are large, and the share of the work that imagenet has there.
_LARGE = {'cifar': (112, 'a fifteenth'), 'cifar_pool': (160, 'a quarter')}
_WORTH_BFLOAT16 = 32  # pixels; convolutions of smaller images are mostly XLA's
_HIGHEST_RATE = 0.02  # of Adam and AdamW
_HIGHEST_DECAY = 5e-3  # where it is added to the gradient


def advise(experiment: Experiment) -> Iterator[str]:
    """Yields sentences about config, images and devices that do not go well together."""
    config, asked_for = experiment.config, jax.config.jax_platforms or ''
    if jax.default_backend() == 'cpu' and not asked_for.startswith('cpu') and has_nvidia_gpu():
        yield (
            'warning: there is an NVIDIA GPU, but JAX runs on the CPU: pip install -r requirements.txt '
            '(JAX_PLATFORMS=cpu says that it is meant)'
        )
    shape = experiment.dataset.image_shape
    slower = config.model.convolution in ('winograd', 'onednn') and config.precision == 'float32'
    if slower and min(shape[:2]) >= _WORTH_BFLOAT16 and onednn.is_fast():
        yield 'this CPU has units for bfloat16: --config.precision=bfloat16 trains up to twice as fast'
    if stage_count(config.model) is not None:
        yield from _about_stem(config.model.stem, min(shape[:2]))
    yield from _about_optimizer(config)
    yield from _about_schedule(config)
    if config.dataset.validation:
        yield from _about_validation(experiment)


def _about_stem(stem: str, side: int) -> Iterator[str]:
    if stem == 'imagenet' and side <= _SMALL:
        yield (
            f'warning: the 7x7 stem leaves little of images of {side} pixels; --config.model.stem=cifar '
            'suits them'
        )
    large, share = _LARGE.get(stem, (math.inf, ''))
    if side >= large:
        yield (
            f'warning: the stem {stem} leaves images of {side} pixels large; --config.model.stem=imagenet '
            f'needs {share} of the work'
        )


def _about_optimizer(config: ConfigDict) -> Iterator[str]:
    optimizer, rate = config.optimizer, highest_rate(config)
    if optimizer.name in ('adam', 'adamw') and rate > _HIGHEST_RATE:
        yield (
            f'warning: a learning rate of {rate:g} is high for {optimizer.name}, which usually has 1e-4 to '
            '3e-3'
        )
    if optimizer.name in ('sgd', 'adam', 'rmsprop') and optimizer.weight_decay > _HIGHEST_DECAY:
        yield (
            f'warning: optimizer.weight_decay={optimizer.weight_decay:g} is high for {optimizer.name}, which '
            'adds it to the gradient and usually has 1e-4 to 5e-4'
        )


def _about_schedule(config: ConfigDict) -> Iterator[str]:
    schedule, left = config.schedule, config.epochs - warmup_epochs(config)
    falls = {
        'step': ('step_size', schedule.step_size),
        'multistep': ('milestones', min(schedule.milestones, default=0)),
    }
    key, first = falls.get(schedule.name, ('', 0))
    if first >= left:
        yield (
            f'warning: the learning rate never falls: schedule.{key} has it fall after {first} epochs, and '
            f'there are {left:g} (config.epochs less warm-up)'
        )


def _about_validation(experiment: Experiment) -> Iterator[str]:
    dataset, loaders = experiment.dataset, experiment.loaders
    lacking = sorted({*range(dataset.num_classes)} - {*loaders['val'].labels.tolist()})
    if lacking:
        listed = ', '.join(dataset.class_names[label] for label in lacking[:5])
        yield f'warning: no image is held out of {len(lacking)} classes ({listed}), the smallest'
    if loaders['val'].size > loaders['train'].size:
        yield (
            f'warning: --config.dataset.validation={experiment.config.dataset.validation:g} holds out more '
            'images than it leaves to train on; 0.1 takes a tenth'
        )
    own = sorted({'val', 'valid', 'validation', 'dev'} & set(dataset.other_splits))
    if own:
        yield (
            f'val is held out of train; to take the split {own[0]} instead: --config.dataset.validation=0 '
            f'--config.dataset.validation_split={own[0]}'
        )
