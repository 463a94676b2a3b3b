"""What a config may hold: every key and every value is checked before long work starts."""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import default
from input_pipeline.augment import CROP_MODES
from input_pipeline.auto_augment import BINS
from input_pipeline.geometry import INTERPOLATIONS
from jax_models.layers import ACTIVATIONS, INITIALIZERS
from jax_models.registry import MODELS, field_names
from training import ConfigError
from training.contradictions import check_together
from training.keys import flatten, not_a_key
from training.losses import LOSSES
from training.metric_names import METRICS
from training.optimizers import OPTIMIZERS
from training.schedules import BATCH_SCALINGS, SCHEDULES

Rule = Callable[[Any], str | None]  # what a value must be, or None where it is


def _one_of(*names: str) -> Rule:
    def rule(value):
        if value in names:
            return None
        lower = {name.lower(): name for name in names}
        close = [lower[name] for name in difflib.get_close_matches(str(value).lower(), lower, 1)]
        return 'one of ' + ', '.join(names) + (f' (did you mean {close[0]}?)' if close else '')

    return rule


def _at_least(low: float) -> Rule:
    return lambda value: None if value >= low else f'at least {low}'


def _above(low: float) -> Rule:
    return lambda value: None if value > low else f'above {low}'


def _from_to(low: float, high: float) -> Rule:
    """At least `low`, below `high`."""
    return lambda value: None if low <= value < high else f'at least {low} and below {high}'


def _each(allowed: Callable[[int], bool], what: str, such_as: str) -> Rule:
    def rule(values):
        return None if all(type(v) is int and allowed(v) for v in values) else f'{what}, such as {such_as}'

    return rule


def _inside(low: float, high: float) -> Rule:
    """Above `low` and below `high`."""
    return lambda value: None if low < value < high else f'above {low} and below {high}'


def _up_to(high: float) -> Rule:
    return lambda value: None if 0 < value <= high else f'above 0 and at most {high}'


def _increasing(value) -> str | None:
    fits = all(type(epoch) is int and epoch > 0 for epoch in value) and list(value) == sorted(set(value))
    return None if fits else 'increasing whole numbers above 0, such as 30,60'


def _between(low: float, high: float) -> Rule:
    """At least `low`, at most `high`."""
    return lambda value: None if low <= value <= high else f'from {low} to {high}'


def _model(name: str) -> str | None:
    if ':' not in name:
        wrong = _one_of(*MODELS)(name)
        return wrong and f'{wrong}, or module:Class of a Flax module of your own'
    try:
        field_names(name)
    except Exception as error:  # of whatever the module does
        return (
            'a Flax module that Python can import (PYTHONPATH says from where), but '
            f'{type(error).__name__}: {error}'
        )
    return None


def _anything(value) -> None:
    return None


RULES: dict[str, Rule] = {
    'seed': _from_to(0, 2**32),
    'epochs': _at_least(1),
    'batch_size': _at_least(1),
    'precision': _one_of('float32', 'bfloat16', 'float16', 'auto'),
    'parallel': _one_of('auto', 'jit', 'pmap'),
    'steps_per_dispatch': _at_least(0),
    'dataset.name': _anything,
    'dataset.folder': _anything,
    'dataset.bad_images': _one_of('fail', 'skip'),
    'dataset.image_size': _at_least(0),
    'dataset.data_dir': _anything,
    'dataset.manual_dir': _anything,
    'dataset.cache_dir': _anything,
    'dataset.loader': _one_of('auto', 'resident', 'streaming'),
    'dataset.workers': _at_least(-1),
    'dataset.train_split': lambda value: None if value else 'the name of a split',
    'dataset.validation_split': _anything,
    'dataset.test_split': _anything,
    'dataset.validation': lambda v: (
        None if 0 <= v < 1 or (v > 1 and v == int(v)) else 'a fraction below 1, or a whole number above 1'
    ),
    'dataset.validation_seed': _from_to(0, 2**32),
    'dataset.watch_test': _anything,
    'dataset.drop_last': _anything,
    'dataset.normalization': _one_of('dataset', 'half', 'none'),
    'augmentation.crop_padding': _at_least(0),
    'augmentation.crop_mode': _one_of(*CROP_MODES),
    'augmentation.crop_scale_min': _up_to(1),
    'augmentation.flip': _anything,
    'augmentation.brightness': _at_least(0),
    'augmentation.contrast': _at_least(0),
    'augmentation.saturation': _at_least(0),
    'augmentation.hue': _between(0, 0.5),
    'augmentation.rotation': _between(0, 180),
    'augmentation.rotation_interpolation': _one_of(*INTERPOLATIONS),
    'augmentation.rotation_fill': _between(0, 1),
    'augmentation.perspective': _from_to(0, 1),
    'augmentation.perspective_probability': _between(0, 1),
    'augmentation.blur': lambda v: None if v == 0 or (v > 1 and v % 2 == 1) else 'odd and above 1, or 0',
    'augmentation.blur_sigma_min': _above(0),
    'augmentation.blur_sigma_max': _above(0),
    'augmentation.auto': _one_of('none', 'randaugment', 'trivialaugment'),
    'augmentation.randaugment_ops': _at_least(1),
    'augmentation.randaugment_magnitude': _between(0, BINS - 1),
    'augmentation.cutout': _at_least(0),
    'augmentation.cutout_after_normalization': _anything,
    'augmentation.erasing': _between(0, 1),
    'augmentation.mixup_alpha': _at_least(0),
    'augmentation.cutmix_alpha': _at_least(0),
    'model.name': _model,
    'model.width': _at_least(1),
    'model.stem': _one_of('cifar', 'cifar_pool', 'imagenet'),
    'model.max_parameters': _at_least(0),
    'model.activation': _one_of(*ACTIVATIONS),
    'model.stage_sizes': _each(
        lambda size: size >= 1,
        '() for the default, or whole numbers of blocks, at least 1 for each stage',
        '4,4,3',
    ),
    'model.kernel_sizes': _each(lambda size: size >= 1 and size % 2 == 1, 'odd whole numbers', '5,3,3'),
    'model.shortcut_kernel_sizes': _each(lambda size: size >= 1, 'whole numbers, at least 1', '1,2,1'),
    'model.se': _one_of('none', 'stem', 'blocks'),
    'model.se_reduction': _at_least(1),
    'model.hidden': _at_least(1),
    'model.head_sizes': _each(
        lambda size: size >= 1, 'whole numbers of units, at least 1 for each layer', '512,256'
    ),
    'model.head': _one_of('linear', 'cosine'),
    'model.cosine_scale': _above(0),
    'model.dropout': _from_to(0, 1),
    'model.block_dropout': _from_to(0, 1),
    'model.initialization': _one_of(*INITIALIZERS),
    'model.zero_init_last_norm': _anything,
    'model.convolution': _one_of('auto', 'xla', 'winograd', 'onednn'),
    'batch_norm.sync': _anything,
    'loss.name': _one_of(*LOSSES),
    'loss.label_smoothing': _from_to(0, 1),
    'loss.focal_gamma': _at_least(0),
    'loss.margin': _between(0, 1),
    'loss_scale.initial': _at_least(1),
    'loss_scale.growth_factor': _above(1),
    'loss_scale.growth_interval': _at_least(1),
    'loss_scale.backoff_factor': _inside(0, 1),
    'loss_scale.max': _at_least(1),
    'optimizer.name': _one_of(*OPTIMIZERS),
    'optimizer.learning_rate': _above(0),
    'optimizer.scale_with_batch': _one_of(*BATCH_SCALINGS),
    'optimizer.reference_batch': _at_least(1),
    'optimizer.momentum': _from_to(0, 1),
    'optimizer.nesterov': _anything,
    'optimizer.beta1': _from_to(0, 1),
    'optimizer.beta2': _from_to(0, 1),
    'optimizer.rmsprop_decay': _from_to(0, 1),
    'optimizer.epsilon': _above(0),
    'optimizer.weight_decay': _at_least(0),
    'optimizer.decay_norm_and_bias': _anything,
    'optimizer.clip_value': _at_least(0),
    'optimizer.clip_norm': _at_least(0),
    'optimizer.lookahead_steps': _at_least(0),
    'optimizer.lookahead_alpha': _up_to(1),
    'optimizer.accumulation_steps': _at_least(1),
    'schedule.name': _one_of(*SCHEDULES),
    'schedule.interval': _one_of('step', 'epoch'),
    'schedule.warmup_epochs': _at_least(0),
    'schedule.final_learning_rate': _at_least(0),
    'schedule.step_size': _at_least(1),
    'schedule.milestones': _increasing,
    'schedule.gamma': _up_to(1),
    'schedule.t_max': _at_least(0),
    'schedule.t_0': _at_least(1),
    'schedule.t_mult': _at_least(1),
    'schedule.restart_decay': _up_to(1),
    'schedule.total_steps': _at_least(0),
    'schedule.pct_start': _inside(0, 1),
    'schedule.anneal_strategy': _one_of('cos', 'linear'),
    'schedule.div_factor': _at_least(1),
    'schedule.final_div_factor': _above(0),
    'schedule.cycle_momentum': _anything,
    'schedule.base_momentum': _from_to(0, 1),
    'schedule.max_momentum': _from_to(0, 1),
    'schedule.plateau_metric': _one_of('auto', *METRICS),
    'schedule.plateau_mode': _one_of('min', 'max'),
    'schedule.plateau_factor': _inside(0, 1),
    'schedule.plateau_patience': _at_least(0),
    'schedule.plateau_threshold': _at_least(0),
    'schedule.plateau_threshold_mode': _one_of('rel', 'abs'),
    'schedule.plateau_cooldown': _at_least(0),
    'schedule.plateau_eps': _at_least(0),
    'ema.decay': _from_to(0, 1),
    'early_stopping.patience': _at_least(0),
    'early_stopping.metric': _one_of('auto', *METRICS),
    'checkpoint.every_epochs': _at_least(0),
    'checkpoint.min_seconds': _at_least(0),
    'checkpoint.every_steps': _at_least(0),
    'verification.pairs': _anything,
    'verification.split': lambda value: None if value else 'the name of a split, such as ver_data',
    'verification.flip': _anything,
    'verification.resamples': _at_least(0),
    'wandb.mode': _one_of('disabled', 'offline', 'online'),
    'wandb.project': _anything,
    'wandb.entity': _anything,
    'wandb.name': _anything,
    'wandb.upload_checkpoint': _anything,
}

# What may change between a checkpoint and the run that continues it: where and how, not what.
_MAY_CHANGE = (
    'epochs',
    'precision',
    'parallel',
    'steps_per_dispatch',
    'dataset.folder',  # training.resumption compares what lies there
    'dataset.bad_images',
    'dataset.data_dir',
    'dataset.manual_dir',
    'dataset.cache_dir',
    'dataset.loader',
    'dataset.workers',
    'model.convolution',
    'early_stopping.',
    'checkpoint.',
    'verification.pairs',  # training.resumption compares what they say
    'verification.resamples',
    'wandb.',
)


def check(config: ConfigDict) -> None:
    """Raises ConfigError unless every key is declared, none is missing, and all values are allowed."""
    flat, declared = flatten(config), flatten(default.get_config())
    for key in flat:
        if key not in declared:
            raise ConfigError(not_a_key(key))
    for key, value in declared.items():
        if key not in flat:
            raise ConfigError(f'config.{key} is missing; its default is {value!r}')
        given = flat[key]
        fits = type(given) is type(value) or (type(value) is float and type(given) is int)
        if not fits:
            raise ConfigError(f'config.{key}={given!r}: must be of type {type(value).__name__}')
        if isinstance(given, float) and not math.isfinite(given):
            raise ConfigError(f'config.{key}={given!r}: must be finite')
        if expected := RULES[key](given):
            raise ConfigError(f'config.{key}={given!r}: must be {expected}')
    check_together(config)


def completed(saved: Mapping) -> dict:
    """Returns a run's config as it was saved, with the defaults of keys that have been added since.

    So a new key's default must be what was done without it.
    """
    declared = default.get_config().to_dict()
    groups = {
        key: {**declared.get(key, {}), **value} for key, value in saved.items() if isinstance(value, Mapping)
    }
    return {**declared, **saved, **groups}


def different_keys(saved: Mapping, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Returns {key: (saved, now)} of what differs and must not, for a run to continue."""
    known, before, now = flatten(saved), flatten(completed(saved)), flatten(config)
    if before['dataset.folder'] and now['dataset.folder']:  # the name depends on the folder's path
        before['dataset.name'] = now['dataset.name']
    return {
        key: (before.get(key), now.get(key))
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
        and (key in known or before.get(key) != 'auto')  # what a newer key would have been is not known
        # A float16 run has a loss scale in its checkpoints.
        and (not key.startswith(_MAY_CHANGE) or 'float16' in (before.get(key), now.get(key)))
    }
