"""Whether a config suits its images and devices: said before any image is decoded."""

import traceback

from ml_collections import ConfigDict

from input_pipeline.sources import Dataset
from jax_models import create_model, summary
from training import ConfigError


def check_dataset(config: ConfigDict, dataset: Dataset) -> None:
    """Raises ConfigError where model or augmentation do not fit the images, or the model its limit."""
    _check_model(config.model, dataset.image_shape, dataset.num_classes)
    _check_augmentation(config.augmentation, dataset.image_shape)


def _check_model(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> None:
    try:
        model = create_model(config, num_classes=num_classes)
        logits, variables = summary.abstract_outputs(model, image_shape)
    except Exception as error:
        own_model = ':' in config.name
        if not own_model and not isinstance(error, TypeError | ValueError | ZeroDivisionError):
            raise
        size = ' x '.join(map(str, image_shape))
        message = f'config.model: does not fit images of {size}: {error}'
        if own_model:
            own = [f for f in traceback.extract_tb(error.__traceback__) if 'site-packages' not in f.filename]
            message = f'config.model.name={config.name}: {error} ({own[-1].filename}, line {own[-1].lineno})'
        raise ConfigError(message) from error
    shape = getattr(logits, 'shape', None)
    if shape != (1, num_classes):
        given = f'a {type(logits).__name__}' if shape is None else f'{list(shape[1:])} outputs'
        raise ConfigError(
            f'config.model.name={config.name}: gives {given} for an image, where {num_classes} classes want '
            f'logits of [{num_classes}]'
        )
    count, limit = summary.parameter_count(variables['params']), config.max_parameters
    if limit and count > limit:
        raise ConfigError(
            f'config.model.max_parameters={limit:,}: the model has {count:,}, {count - limit:,} too many; '
            'make config.model.width or stage_sizes smaller, or allow more'
        )


def check_batch(config: ConfigDict, devices: int) -> None:
    """Raises ConfigError where the batch does not divide among devices and accumulation steps."""
    unit = devices * config.optimizer.accumulation_steps
    if config.batch_size % unit:
        below, above = config.batch_size // unit * unit, -(-config.batch_size // unit) * unit
        raise ConfigError(
            f'config.batch_size={config.batch_size}: must be divisible by {unit} ({devices} devices x '
            f'{config.optimizer.accumulation_steps} accumulation steps); the nearest are '
            + (f'{below} and {above}' if below else f'{above}')
        )


def _check_augmentation(config: ConfigDict, image_shape: tuple[int, int, int]) -> None:
    side, channels = min(image_shape[:2]), image_shape[-1]
    if config.crop_padding > side or (config.crop_mode == 'reflect' and config.crop_padding >= side):
        raise ConfigError(
            f'config.augmentation.crop_padding={config.crop_padding}: too large for images of {side} pixels'
        )
    for name in ('cutout', 'blur'):
        if config[name] > side:
            raise ConfigError(
                f'config.augmentation.{name}={config[name]}: larger than the images, which have {side} pixels'
            )
    colors = [name for name in ('brightness', 'contrast', 'saturation', 'hue') if config[name]]
    colors += ['auto'] if config.auto != 'none' else []
    if colors and channels not in (1, 3):
        raise ConfigError(
            f'config.augmentation.{colors[0]}={config[colors[0]]}: for images of 1 or 3 channels; these '
            f'have {channels}'
        )
