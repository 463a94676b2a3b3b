"""What a config may not hold at once."""

from ml_collections import ConfigDict

from jax_models.registry import field_names, stage_count
from training import ConfigError
from training.keys import flatten
from training.losses import MARGIN_LOSSES
from training.metric_names import higher_is_better
from training.schedules import highest_rate

# The first must not exceed the second.
_NOT_ABOVE = (
    ('augmentation.blur_sigma_min', 'augmentation.blur_sigma_max'),
    ('loss_scale.initial', 'loss_scale.max'),
    ('schedule.base_momentum', 'schedule.max_momentum'),
)


def check_together(config: ConfigDict) -> None:
    """Raises ConfigError where values that are allowed by themselves do not go together."""
    _check_splits(config.dataset)
    stages = stage_count(config.model)
    if stages == 0:
        raise ConfigError(
            f'config.model.stage_sizes=(): model {config.model.name} needs them, such as (2, 2, 2, 2)'
        )
    for name in ('kernel_sizes', 'shortcut_kernel_sizes'):
        sizes = config.model[name]
        if sizes and stages is not None and len(sizes) != stages:
            raise ConfigError(f'config.model.{name}={sizes}: must be () or one for each of {stages} stages')
    _check_margin(config)
    if config.augmentation.crop_scale_min < 1 and config.augmentation.crop_padding:
        raise ConfigError(
            'config.augmentation: crop_padding and crop_scale_min are two ways to crop; leave one at '
            'crop_padding=0 or crop_scale_min=1'
        )
    if config.model.convolution == 'winograd' and config.precision not in ('float32', 'auto'):
        raise ConfigError(
            f'config.model.convolution=winograd: runs in float32 only; use xla with {config.precision}'
        )
    optimizer = config.optimizer
    if optimizer.name == 'sgd' and optimizer.nesterov and not optimizer.momentum:
        raise ConfigError('config.optimizer.nesterov: needs config.optimizer.momentum above 0')
    flat = flatten(config)
    for low, high in _NOT_ABOVE:
        if flat[low] > flat[high]:
            raise ConfigError(f'config.{low}={flat[low]}: must not exceed config.{high}={flat[high]}')
    if config.early_stopping.patience:
        _check_metric(config, 'early_stopping.metric', config.early_stopping.metric)
    _check_schedule(config)


def _check_margin(config: ConfigDict) -> None:
    if config.loss.name not in MARGIN_LOSSES:
        return
    if config.model.head != 'cosine':
        raise ConfigError(f'config.loss.name={config.loss.name}: needs config.model.head=cosine')
    if 'head' not in field_names(config.model.name):
        raise ConfigError(
            f'config.loss.name={config.loss.name}: needs a cosine head, which config.model.name='
            f'{config.model.name} has no field for'
        )
    for name in ('mixup_alpha', 'cutmix_alpha'):
        if config.augmentation[name]:
            raise ConfigError(
                f'config.loss.name={config.loss.name}: has a margin for one class only, so it needs '
                f'config.augmentation.{name}=0'
            )


def _check_splits(dataset: ConfigDict) -> None:
    if not (dataset.name or dataset.folder):
        raise ConfigError(
            'config.dataset.folder is empty: pass --config.dataset.folder=DIR, with images such as '
            'DIR/train/cat/1.jpg or just DIR/cat/1.jpg, or the --config.dataset.name of a TFDS dataset'
        )
    if dataset.validation and dataset.validation_split:
        raise ConfigError(
            f'config.dataset.validation_split={dataset.validation_split}: takes the place of images held out '
            f'of train, so it needs config.dataset.validation=0 (it is {dataset.validation:g})'
        )
    named = [name for name in (dataset.train_split, dataset.validation_split, dataset.test_split) if name]
    if len(set(named)) < len(named):
        raise ConfigError(
            f'config.dataset.train_split={dataset.train_split}, validation_split={dataset.validation_split}, '
            f'test_split={dataset.test_split}: must be different splits'
        )
    if dataset.watch_test and (dataset.validation or dataset.validation_split):
        key = 'validation_split' if dataset.validation_split else 'validation'
        raise ConfigError(
            'config.dataset.watch_test: chooses the best checkpoint on test, so it needs '
            f"config.dataset.validation=0 and validation_split='' ({key} is {dataset[key]})"
        )
    if dataset.watch_test and not dataset.test_split:
        raise ConfigError('config.dataset.watch_test: needs a config.dataset.test_split')


def _check_schedule(config: ConfigDict) -> None:
    schedule, highest = config.schedule, highest_rate(config)
    if schedule.final_learning_rate > highest:
        rate = config.optimizer.learning_rate
        scaled = '' if highest == rate else f' ({highest:g} when scaled with the batch)'
        raise ConfigError(
            f'config.schedule.final_learning_rate={schedule.final_learning_rate}: must not exceed '
            f'config.optimizer.learning_rate={rate}{scaled}'
        )
    if schedule.interval == 'epoch' and schedule.warmup_epochs and not round(schedule.warmup_epochs):
        raise ConfigError(
            f'config.schedule.warmup_epochs={schedule.warmup_epochs:g}: rounds to no epoch at all; with '
            'config.schedule.interval=epoch it must be 0 or at least 1'
        )
    if schedule.name == 'multistep' and not schedule.milestones:
        raise ConfigError('config.schedule.milestones=(): multistep needs at least one, such as 30,60')
    if schedule.name == 'plateau':
        metric = schedule.plateau_metric
        _check_metric(config, 'schedule.plateau_metric', metric)
        better = 'max' if higher_is_better(metric) else 'min'
        if schedule.plateau_mode != better:
            raise ConfigError(
                f'config.schedule.plateau_mode={schedule.plateau_mode}: must be {better} for '
                f'config.schedule.plateau_metric={metric}'
            )


def _check_metric(config: ConfigDict, key: str, metric: str) -> None:
    """Raises ConfigError unless the metric is known after every epoch."""
    needed = {
        'val': (
            'dataset.validation above 0, or a dataset.validation_split',
            config.dataset.validation or config.dataset.validation_split,
        ),
        'test': ('dataset.watch_test', config.dataset.watch_test),
        'verification': ('verification.pairs', config.verification.pairs),
    }
    other, there = needed.get(metric.split('_')[0], ('', True))
    if not there:
        raise ConfigError(f'config.{key}={metric}: needs config.{other}')
