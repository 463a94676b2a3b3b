"""Keys that were set and that nothing reads, since another key says so."""

from ml_collections import ConfigDict

from configs import default
from jax_models.registry import field_names
from training.keys import flatten
from training.losses import MARGIN_LOSSES

_LOSS_SCALE = 'initial growth_factor growth_interval backoff_factor max'
_PLATEAU = 'metric mode factor patience threshold threshold_mode cooldown eps'
# Keys (those of a group without it), the key that decides whether they are read, and its values with which
# they are: () is all that switch something on.
_READ_WITH = (
    ('validation_seed', 'dataset.validation', ()),
    ('bad_images', 'dataset.folder', ()),
    ('workers', 'dataset.loader', ('auto', 'streaming')),
    ('crop_mode', 'augmentation.crop_padding', ()),
    ('rotation_interpolation rotation_fill', 'augmentation.rotation', ()),
    ('perspective_probability', 'augmentation.perspective', ()),
    ('blur_sigma_min blur_sigma_max', 'augmentation.blur', ()),
    ('randaugment_ops randaugment_magnitude', 'augmentation.auto', ('randaugment',)),
    ('cutout_after_normalization', 'augmentation.cutout', ()),
    ('se_reduction', 'model.se', ()),
    ('cosine_scale', 'model.head', ('cosine',)),
    ('focal_gamma', 'loss.name', ('focal',)),
    ('margin', 'loss.name', MARGIN_LOSSES),
    (' '.join(f'loss_scale.{name}' for name in _LOSS_SCALE.split()), 'precision', ('float16',)),
    ('reference_batch', 'optimizer.scale_with_batch', ()),
    ('momentum', 'optimizer.name', ('sgd', 'rmsprop', 'muon')),
    ('nesterov', 'optimizer.name', ('sgd', 'muon')),
    ('beta1 beta2', 'optimizer.name', ('adam', 'adamw', 'muon')),
    ('rmsprop_decay', 'optimizer.name', ('rmsprop',)),
    ('epsilon', 'optimizer.name', ('adam', 'adamw', 'rmsprop', 'muon')),
    ('decay_norm_and_bias', 'optimizer.weight_decay', ()),
    ('lookahead_alpha', 'optimizer.lookahead_steps', ()),
    ('step_size', 'schedule.name', ('step',)),
    ('milestones', 'schedule.name', ('multistep',)),
    ('gamma', 'schedule.name', ('step', 'multistep', 'exponential')),
    ('final_learning_rate', 'schedule.name', ('cosine', 'cosine_restarts', 'plateau')),
    ('t_max', 'schedule.name', ('cosine',)),
    ('t_0 t_mult restart_decay', 'schedule.name', ('cosine_restarts',)),
    ('total_steps pct_start anneal_strategy div_factor final_div_factor', 'schedule.name', ('onecycle',)),
    ('base_momentum max_momentum', 'schedule.cycle_momentum', ()),
    ('cycle_momentum base_momentum max_momentum', 'schedule.name', ('onecycle',)),
    (' '.join(f'plateau_{name}' for name in _PLATEAU.split()), 'schedule.name', ('plateau',)),
    ('metric', 'early_stopping.patience', ()),
    ('min_seconds', 'checkpoint.every_epochs', ()),
    ('split flip resamples', 'verification.pairs', ()),
    ('project entity name upload_checkpoint', 'wandb.mode', ()),
)
# Keys of config.model, and the fields of a model of which one is made of each.
_SAME = ('width', 'activation', 'head', 'dropout', 'hidden', 'stem', 'stage_sizes', 'kernel_sizes')
_SAME += ('shortcut_kernel_sizes', 'head_sizes', 'block_dropout', 'zero_init_last_norm')
_FIELDS = {name: {name} for name in _SAME} | {'se': {'stem_gate', 'block_gate'}}


def unused_keys(config: ConfigDict) -> dict[str, str]:
    """Returns {key: the other's `key=value`} of keys that differ from their defaults without any effect.

    Args:
      config: checked, not yet resolved.
    """
    flat, defaults = flatten(config), flatten(default.get_config())
    unused = {
        key: f'{decides}={flat[decides]}'
        for names, decides, values in _READ_WITH
        for key in (name if '.' in name else f'{decides.split(".")[0]}.{name}' for name in names.split())
        if flat[key] != defaults[key]
        and (flat[decides] not in values if values else flat[decides] in (0, '', 'none', 'disabled'))
    }
    if config.schedule.name == 'onecycle' and config.schedule.cycle_momentum:
        cycled = 'optimizer.beta1' if config.optimizer.name in ('adam', 'adamw') else 'optimizer.momentum'
        if flat[cycled] != defaults[cycled]:
            unused[cycled] = 'schedule.cycle_momentum=True'
    fields = field_names(config.model.name)
    return unused | {
        f'model.{name}': f'model.name={config.model.name}'
        for name, made in _FIELDS.items()
        if not made & fields and flat[f'model.{name}'] != defaults[f'model.{name}']
    }
