"""From a config to everything that a run is made of, for training and evaluation alike."""

import functools
import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from input_pipeline import DataError, augment, normalization, sources
from input_pipeline.encoded import EncodedImages
from input_pipeline.loaders import Resident, steps_per_epoch, training_order
from input_pipeline.splits import carve_validation
from input_pipeline.streaming import Streaming
from jax_models import create_model, onednn
from training import ConfigError, pairs
from training.loss_scale import create_loss_scale
from training.optimizers import create_optimizer
from training.parallel import Execution
from training.processes import in_turn
from training.state import TrainState, create_state
from training.steps import Batch, augment_batch, create_feature_step, create_predict_step, create_train_step
from training.suitability import check_batch, check_dataset

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-datasets', 'numpy')


def versions() -> dict[str, str]:
    """Returns the versions of Python and the libraries that decide about results."""
    return {'python': platform.python_version(), **{name: version(name) for name in PACKAGES}}


@dataclass
class Experiment:
    """A run's parts, built but not started.

    Attributes:
      config: resolved.
      dataset: with the splits that the loaders read.
      loaders: train, and val and test where the config names or holds out such images.
      normalize: of images, float32 in 0 to 1, as the model wants them (normalization.py).
      augment_batch: of a batch and a step's number, to images and targets as training sees them.
      execution: of compiled steps on the devices.
      model: as trained; `create_model` again for another use.
      optimizer: without a rate, which each step gives it.
      steps: per epoch, the smaller last one included where it is kept.
      paired: the pairs of `config.verification` with their images, where it names any.
    """

    config: ConfigDict
    dataset: sources.Dataset
    loaders: dict[str, Resident | Streaming]
    normalize: Callable[[jax.Array], jax.Array]
    augment_batch: Callable[[Batch, jax.Array], tuple[jax.Array, jax.Array]]
    execution: Execution
    model: nn.Module
    optimizer: optax.GradientTransformation
    steps: int
    paired: pairs.PairedImages | None

    def create_state(self) -> TrainState:
        """Returns the state before the first step."""
        on_cpu = self.execution.devices[0].platform == 'cpu'
        # LLVM's last level takes up to eight times as long, for the same numbers.
        options = {'xla_backend_optimization_level': 2} if on_cpu else None
        return jax.jit(self._create_state, compiler_options=options)()

    def _create_state(self) -> TrainState:
        config = self.config
        return create_state(
            self.model,
            self.optimizer,
            self.dataset.image_shape,
            seed=config.seed,
            ema=bool(config.ema.decay),
            loss_scale=create_loss_scale(config.loss_scale) if config.precision == 'float16' else None,
        )

    def abstract_state(self) -> Any:
        """Returns the shapes of `create_state`."""
        return jax.eval_shape(self._create_state)

    def train_step(self) -> Callable:
        """Returns what training.steps.create_train_step does for this experiment."""
        return create_train_step(
            self.config,
            self.model,
            self.optimizer,
            augment_batch=self.augment_batch,
            axis_name=self.execution.axis_name,
            unroll=not self.execution.many_steps,
        )

    def predict_step(self) -> Callable:
        """Returns what training.steps.create_predict_step does for this experiment."""
        return create_predict_step(self.model, normalize=self.normalize)

    def feature_step(self, *, flip: bool) -> Callable:
        """Raises ConfigError where the model, one of the user's own, has no features."""
        if not hasattr(self.model, 'features'):
            raise ConfigError(
                f'config.model.name={self.config.model.name}: has no method features(images, *, train), '
                'which pairs and --features need'
            )
        return create_feature_step(self.model, normalize=self.normalize, flip=flip)


def create_experiment(
    config: ConfigDict, devices: Sequence[jax.Device], dataset: sources.Dataset | None = None
) -> Experiment:
    """Loads the data and builds the rest.

    Args:
      config: checked and resolved.
      devices: to run on.
      dataset: taken instead of what `config.dataset` names, and without pairs. One without splits gives an
        experiment without loaders, to evaluate with.

    Raises:
      ConfigError: the batch does not fit the devices, or the model the images or its limit.
      DataError: the dataset or the pairs cannot be loaded.
    """
    labelled = pairs.read_labelled(config) if config.verification.pairs and dataset is None else None
    execution = _create_execution(config, devices)
    check_batch(config, execution.device_count)
    if dataset is None:
        names = [stored_split(config.dataset, name) for name in ('train', 'val', 'test')]
        names += [config.verification.split] * (labelled is not None)
        names = list(dict.fromkeys(filter(None, names)))
        known = sources.known_beforehand(config.dataset)

        def check(found):
            checked = known and (known.image_shape, known.num_classes)
            if checked != (found.image_shape, found.num_classes):
                check_dataset(config, found)

        if known:
            check_dataset(config, known)
        dataset = load_splits(config.dataset, names, execution, check)
    loaders = _create_loaders(config.dataset, dataset)
    steps, paired = 0, None
    if loaders:
        size, drop_last = loaders['train'].size, config.dataset.drop_last
        steps = steps_per_epoch(size, config.batch_size, drop_last=drop_last)
        dataset = replace(dataset, train_checksum=dataset.splits[config.dataset.train_split].checksum())
    if labelled is not None:
        name = config.verification.split
        paired = pairs.find_images(labelled, dataset.splits[name], name, dataset.image_shape)

    mean, std = in_turn(
        lambda: normalization.constants(config.dataset.normalization, dataset, config.dataset.train_split)
    )
    dataset = replace(dataset, constants=(mean, std))
    model = create_model(
        config.model,
        num_classes=dataset.num_classes,
        dtype=jnp.dtype(config.precision),
        **execution.batch_norm(sync=config.batch_norm.sync),
    )
    before, after = augment.create_augmentation(config.augmentation)

    def normalize(images):
        return (images - mean) / std

    return Experiment(
        config=config,
        dataset=dataset,
        loaders=loaders,
        normalize=normalize,
        augment_batch=functools.partial(
            augment_batch,
            seed=config.seed,
            augment=before,
            normalize=normalize,
            augment_normalized=after,
            mix=augment.create_mixing(config.augmentation, dataset.num_classes),
        ),
        execution=execution,
        model=model,
        optimizer=create_optimizer(config.optimizer),
        steps=steps,
        paired=paired,
    )


def _create_execution(config: ConfigDict, devices: Sequence[jax.Device]) -> Execution:
    if config.model.convolution != 'onednn':
        return Execution(config.parallel, devices)
    # XLA cannot write oneDNN's programs to JAX's cache.
    warnings.filterwarnings('ignore', 'Error writing persistent compilation cache entry.*bad_alloc')
    return Execution(config.parallel, devices, compiler_options=onednn.COMPILER_OPTIONS)


def load_splits(
    config: ConfigDict,
    names: Sequence[str],
    execution: Execution,
    check: Callable[[sources.Dataset], None] = lambda described: None,
) -> sources.Dataset:
    """Returns what `sources.load` does with the memory of these devices. To be called by all processes."""
    memory = execution.free_bytes()
    return in_turn(lambda: sources.load(config, names, memory=memory, check=check))


def create_loader(
    config: ConfigDict, split: sources.Split, indices: np.ndarray | None = None
) -> Resident | Streaming:
    """Returns the loader of the examples at `indices` int[n] (all of them by default)."""
    if isinstance(split.images, EncodedImages):
        return Streaming(split, indices, workers=config.workers)
    return Resident(split, indices)


def _create_loaders(config: ConfigDict, dataset: sources.Dataset) -> dict[str, Resident | Streaming]:
    names = ('train', 'val', 'test') if dataset.splits else ()
    return {name: select_loader(config, dataset, name) for name in names if stored_split(config, name)}


def select_loader(
    config: ConfigDict, dataset: sources.Dataset, name: str, *, labelled: bool = True
) -> Resident | Streaming:
    """Returns the loader of train, val or test as the config has them, or of another split of the dataset.

    Raises:
      DataError: images that should have labels have none.
    """
    stored = stored_split(config, name)
    split, rows = dataset.splits[stored], None
    if labelled and (split.labels < 0).any():
        raise DataError(
            f'Split {stored} of {dataset.name} has images without labels (loose, or in folders that train '
            'lacks): classifiers are neither trained nor evaluated on it.'
        )
    if config.validation and name in ('train', 'val'):
        train_rows, val_rows = carve_validation(
            split.labels, config.validation, config.validation_seed, dataset.class_names
        )
        rows = train_rows if name == 'train' else val_rows
    return create_loader(config, split, rows)


def stored_split(config: ConfigDict, name: str) -> str:
    """Returns the dataset's name of train, val or test, '' where the config has no such; else the name."""
    validation = config.train_split if config.validation else config.validation_split
    return {'train': config.train_split, 'val': validation, 'test': config.test_split}.get(name, name)


def check_training(experiment: Experiment) -> None:
    """Raises ConfigError where the batch does not fit the training images."""
    config, size = experiment.config, experiment.loaders['train'].size
    devices = experiment.execution.device_count
    rest = size % config.batch_size
    unit = devices * config.optimizer.accumulation_steps
    if config.dataset.drop_last and size < config.batch_size:
        raise ConfigError(
            f'config.batch_size={config.batch_size}: larger than the {size} training images, of which '
            f'dataset.drop_last would drop all; take one of at most {size}, such as --config.batch_size='
            f'{min(32, size) // unit * unit or unit}, or --config.dataset.drop_last=False'
        )
    if not config.dataset.drop_last and rest % unit:
        raise ConfigError(
            f'config.dataset.drop_last=False: the last batch has {rest} images, which do not divide by '
            f'{unit} ({devices} devices x {config.optimizer.accumulation_steps} accumulation steps); set '
            '--config.dataset.drop_last=True or change batch_size'
        )
    smallest = config.batch_size if config.dataset.drop_last or not rest else rest
    if smallest == config.optimizer.accumulation_steps * (1 if config.batch_norm.sync else devices):
        _check_single_image(experiment)


def _check_single_image(experiment: Experiment) -> None:
    """Raises ConfigError where batch norm would take the statistics of an image of a single pixel."""
    config, dataset = experiment.config, experiment.dataset
    model = create_model(config.model, num_classes=dataset.num_classes, dtype=jnp.float32)
    images = jax.ShapeDtypeStruct((1, *dataset.image_shape), jnp.float32)
    keys = {'dropout': jax.random.key(0)}
    train = functools.partial(model.apply, train=True, mutable=['batch_stats'], rngs=keys)
    try:
        jax.eval_shape(train, experiment.abstract_state().variables, images)
    except ValueError as error:
        raise ConfigError(
            f'config.batch_size={config.batch_size}: leaves single images to a last batch, an accumulation '
            f'step or a device, and {error}. Set --config.dataset.drop_last=True, or change batch_size.'
        ) from error


def augmented_images(experiment: Experiment, count: int) -> tuple[np.ndarray, list[str]]:
    """Returns the first images of a run as its first step sees them, and their classes.

    The images are float32[count, height, width, channels], with normalisation undone and cut off at 0 and 1;
    of mixed ones the class with the largest share is given.
    """
    loader = experiment.loaders['train']
    rows = training_order(loader.size, seed=experiment.config.seed, epoch=0)[:count]
    batch = {**loader.take(rows), 'position': np.arange(len(rows))}
    mean, std = experiment.dataset.constants

    @jax.jit
    def first_step(batch):
        images, targets = experiment.augment_batch(batch, 0)
        labels = targets if targets.ndim == 1 else targets.argmax(-1)
        return (images * std + mean).clip(0, 1), labels

    images, labels = first_step(batch)
    return np.asarray(images), [experiment.dataset.class_names[label] for label in np.asarray(labels)]
