import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from configs import default
from jax_models import onednn
from training import ConfigError
from training.config import RULES, check, different_keys, flatten
from training.keys import not_a_key
from training.resolve import resolve

ROOT = Path(__file__).parents[2]
KEYS = sorted(flatten(default.get_config()))
# Modules that are given a section alone, as `config`.
TAKING = {
    'augmentation': 'input_pipeline/augment.py',
    'dataset': 'training/experiment.py',
    'loss': 'training/losses.py',
    'loss_scale': 'training/loss_scale.py',
    'model': 'jax_models/registry.py',
    'optimizer': 'training/optimizers.py',
    'wandb': 'training/tracking.py',
}


def changed(**keys):
    config = default.get_config()
    for key, value in keys.items():
        section, name = (config, key) if '.' not in key else (config[key.split('.')[0]], key.split('.')[1])
        with section.ignore_type():
            section[name] = value
    return config


def test_every_key_has_a_rule_and_every_rule_a_key():
    assert sorted(RULES) == KEYS


def test_every_key_is_read():
    files = [
        p for folder in ('training', 'input_pipeline', 'jax_models') for p in (ROOT / folder).glob('*.py')
    ]
    source = '\n'.join(p.read_text() for p in files if p.name not in ('config.py', 'contradictions.py'))
    for key in KEYS:
        section, _, name = key.rpartition('.')
        # `config.seed`, or `config.optimizer.momentum`, or that section under another name.
        owner = {'early_stopping': 'stopping', 'checkpoint': '(checkpoint|every)'}.get(section, section)
        read = re.search(rf'\b{owner or "config"}\.{name}\b', source)
        if section in TAKING and not read:
            read = re.search(rf'config\.{name}\b', (ROOT / TAKING[section]).read_text())
        assert read, f'nothing reads config.{key}'


def test_defaults_are_allowed():
    check(default.get_config())


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        ('seed', -1, 'at least 0 and below 4294967296'),
        ('epochs', 0, 'at least 1'),
        ('epochs', 1.5, 'of type int'),
        ('epochs', True, 'of type int'),
        ('batch_size', 0, 'at least 1'),
        ('precision', 'float', 'one of float32, bfloat16, float16, auto (did you mean float32?)'),
        ('parallel', 'pjit', 'one of auto, jit, pmap (did you mean jit?)'),
        ('steps_per_dispatch', -1, 'at least 0'),
        ('dataset.bad_images', 'ignore', 'one of fail, skip'),
        ('dataset.image_size', -1, 'at least 0'),
        ('dataset.train_split', '', 'the name of a split'),
        ('dataset.validation', 1.0, 'a fraction below 1, or a whole number above 1'),
        ('dataset.validation', 100.5, 'a fraction below 1, or a whole number above 1'),
        ('dataset.loader', 'stream', 'one of auto, resident, streaming (did you mean streaming?)'),
        ('dataset.workers', -2, 'at least -1'),
        ('dataset.watch_test', 1, 'of type bool'),
        ('dataset.normalization', 'cifar10', 'one of dataset, half, none'),
        ('augmentation.crop_mode', 'mirror', 'one of zero, reflect'),
        ('augmentation.rotation', -5.0, 'from 0 to 180'),
        ('augmentation.rotation_interpolation', 'bicubic', 'one of nearest, bilinear'),
        ('augmentation.hue', 0.6, 'from 0 to 0.5'),
        ('augmentation.perspective', 1.0, 'at least 0 and below 1'),
        ('augmentation.blur', 1, 'odd and above 1, or 0'),
        ('augmentation.auto', 'autoaugment', 'one of none, randaugment, trivialaugment'),
        ('augmentation.randaugment_ops', 0, 'at least 1'),
        ('augmentation.randaugment_magnitude', 31, 'from 0 to 30'),
        ('augmentation.cutout', -1, 'at least 0'),
        ('augmentation.erasing', 1.5, 'from 0 to 1'),
        ('augmentation.mixup_alpha', -1.0, 'at least 0'),
        ('augmentation.cutmix_alpha', -1.0, 'at least 0'),
        ('loss.name', 'focus', 'did you mean focal?'),
        ('loss.focal_gamma', -1.0, 'at least 0'),
        ('model.name', 'resnet-18', 'did you mean resnet18?), or module:Class of a Flax module of your own'),
        ('model.name', 'no_such:Net', 'PYTHONPATH says from where), but ModuleNotFoundError: No module'),
        ('model.name', 'math:pi', 'must be a Flax module that Python can import'),
        ('model.width', 0, 'at least 1'),
        ('model.stem', 'cifar10', 'did you mean cifar?'),
        ('model.stage_sizes', (2, 0), 'at least 1 for each stage'),
        ('model.kernel_sizes', (0, 3, 3, 3), 'odd whole numbers, such as 5,3,3'),
        ('model.kernel_sizes', (2, 2, 2, 2), 'odd whole numbers'),
        ('model.shortcut_kernel_sizes', (0, 1, 1, 1), 'at least 1'),
        ('model.head_sizes', (512, 0.5), 'whole numbers of units'),
        ('model.se', 'head', 'one of none, stem, blocks'),
        ('model.se_reduction', 0, 'at least 1'),
        ('model.block_dropout', -0.1, 'at least 0 and below 1'),
        ('model.initialization', 'kaiming', 'did you mean kaiming_normal?'),
        ('model.max_parameters', -1, 'at least 0'),
        ('model.activation', 'ReLU', 'one of relu, gelu, silu'),
        ('model.dropout', 1.0, 'at least 0 and below 1'),
        ('loss.label_smoothing', -0.1, 'at least 0 and below 1'),
        ('optimizer.learning_rate', 0.0, 'above 0'),
        ('optimizer.learning_rate', float('nan'), 'finite'),
        ('optimizer.learning_rate', float('inf'), 'finite'),
        ('optimizer.learning_rate', 'high', 'of type float'),
        ('optimizer.momentum', 1.0, 'at least 0 and below 1'),
        ('optimizer.name', 'adamw2', 'did you mean adamw?'),
        ('optimizer.beta1', 1.0, 'at least 0 and below 1'),
        ('optimizer.beta2', -0.1, 'at least 0 and below 1'),
        ('optimizer.rmsprop_decay', 1.0, 'at least 0 and below 1'),
        ('optimizer.epsilon', 0.0, 'above 0'),
        ('optimizer.lookahead_steps', -1, 'at least 0'),
        ('optimizer.lookahead_alpha', 1.5, 'above 0 and at most 1'),
        ('optimizer.lookahead_alpha', 0.0, 'above 0 and at most 1'),
        ('schedule.name', 'cos', 'did you mean cosine?'),
        ('schedule.step_size', 0, 'at least 1'),
        ('schedule.milestones', (30, 20), 'increasing whole numbers above 0, such as 30,60'),
        ('schedule.milestones', (-1, 20), 'increasing whole numbers above 0'),
        ('schedule.milestones', (20, 20), 'increasing whole numbers above 0'),
        ('schedule.milestones', (1.5,), 'increasing whole numbers above 0'),
        ('schedule.milestones', 30, 'of type tuple'),
        ('schedule.gamma', 1.1, 'above 0 and at most 1'),
        ('schedule.t_max', -1, 'at least 0'),
        ('schedule.t_0', -5, 'at least 1'),
        ('schedule.t_mult', 0, 'at least 1'),
        ('schedule.restart_decay', 0.0, 'above 0 and at most 1'),
        ('schedule.total_steps', -1, 'at least 0'),
        ('schedule.pct_start', 1.0, 'above 0 and below 1'),
        ('schedule.anneal_strategy', 'cosine', 'one of cos, linear'),
        ('schedule.div_factor', 0.5, 'at least 1'),
        ('schedule.final_div_factor', 0.0, 'above 0'),
        ('schedule.max_momentum', 1.0, 'at least 0 and below 1'),
        ('schedule.plateau_metric', 'loss', 'one of auto, train_loss'),
        ('schedule.plateau_mode', 'maximum', 'one of min, max'),
        ('schedule.plateau_factor', 1.0, 'above 0 and below 1'),
        ('schedule.plateau_patience', -1, 'at least 0'),
        ('schedule.plateau_threshold', -1e-4, 'at least 0'),
        ('schedule.plateau_threshold_mode', 'relative', 'one of rel, abs'),
        ('schedule.plateau_cooldown', -1, 'at least 0'),
        ('schedule.interval', 'batch', 'one of step, epoch'),
        ('early_stopping.metric', 'accuracy', 'one of auto, train_loss'),
        ('wandb.mode', 'on', 'one of disabled, offline, online'),
    ],
)
def test_value_that_is_not_allowed_is_named_with_those_that_are(key, value, expected):
    with pytest.raises(ConfigError, match=rf'config\.{re.escape(key)}=.*{re.escape(expected)}'):
        check(changed(**{key: value}))


@pytest.mark.parametrize(
    ('keys', 'named'),
    [
        ({'dataset.watch_test': True}, 'needs config.dataset.validation=0'),
        (
            {'dataset.watch_test': True, 'dataset.validation': 0.0, 'dataset.test_split': ''},
            'watch_test: needs a config.dataset.test_split',
        ),
        (
            {'dataset.watch_test': True, 'dataset.validation': 0.0, 'dataset.validation_split': 'dev'},
            '(validation_split is dev)',
        ),
        ({'dataset.validation_split': 'dev'}, 'validation_split=dev: takes the place of images held out'),
        (
            {'dataset.validation_split': 'test', 'dataset.validation': 0.0},
            'validation_split=test, test_split=test: must be different',
        ),
        ({'schedule.final_learning_rate': 0.5}, 'must not exceed config.optimizer.learning_rate=0.1'),
        ({'dataset.name': ''}, 'dataset.folder is empty: pass --config.dataset.folder=DIR'),
        ({'schedule.warmup_epochs': 0.5, 'schedule.interval': 'epoch'}, 'rounds to no epoch at all'),
        ({'schedule.name': 'multistep'}, 'milestones=(): multistep needs at least one'),
        ({'schedule.base_momentum': 0.96}, 'must not exceed config.schedule.max_momentum=0.95'),
        ({'schedule.name': 'plateau', 'schedule.plateau_mode': 'max'}, 'must be min for'),
        (
            {'schedule.name': 'plateau', 'schedule.plateau_metric': 'val_accuracy'},
            'plateau_mode=min: must be max for config.schedule.plateau_metric=val_accuracy',
        ),
        (
            {'schedule.name': 'plateau', 'schedule.plateau_metric': 'test_loss'},
            'needs config.dataset.watch_test',
        ),
        ({'model.convolution': 'winograd', 'precision': 'bfloat16'}, 'float32 only'),
        ({'loss.name': 'arcface'}, 'needs config.model.head=cosine'),
        (
            {'loss.name': 'cosface', 'model.head': 'cosine', 'augmentation.mixup_alpha': 1.0},
            'needs config.augmentation.mixup_alpha=0',
        ),
        ({'loss_scale.initial': 64.0, 'loss_scale.max': 32.0}, 'must not exceed config.loss_scale.max'),
        ({'augmentation.crop_padding': 4, 'augmentation.crop_scale_min': 0.5}, 'two ways to crop'),
        ({'augmentation.blur_sigma_min': 3.0}, 'must not exceed config.augmentation.blur_sigma_max'),
        ({'model.name': 'resnet'}, 'stage_sizes=(): model resnet needs them'),
        (
            {'optimizer.nesterov': True, 'optimizer.momentum': 0.0},
            'nesterov: needs config.optimizer.momentum',
        ),
        ({'model.kernel_sizes': (3, 3, 3)}, 'kernel_sizes=(3, 3, 3): must be () or one for each of 4 stages'),
        (
            {'early_stopping.patience': 1, 'early_stopping.metric': 'test_loss'},
            'needs config.dataset.watch_test',
        ),
        (
            {'early_stopping.patience': 1, 'early_stopping.metric': 'val_loss', 'dataset.validation': 0.0},
            'needs config.dataset.validation above 0',
        ),
        (
            {'early_stopping.patience': 1, 'early_stopping.metric': 'verification_eer'},
            'needs config.verification.pairs',
        ),
        (
            {
                'schedule.name': 'plateau',
                'schedule.plateau_metric': 'verification_auc',
                'verification.pairs': 'a',
            },
            'plateau_mode=min: must be max for config.schedule.plateau_metric=verification_auc',
        ),
    ],
)
def test_values_that_contradict_each_other_are_named(keys, named):
    with pytest.raises(ConfigError, match=re.escape(named)):
        check(changed(**keys))


def test_whole_numbers_are_allowed_for_fractions():
    check(changed(**{'optimizer.learning_rate': 1, 'dataset.validation': 5000}))


def test_missing_and_unknown_keys_are_named():
    config = default.get_config()
    del config.loss.label_smoothing
    with pytest.raises(ConfigError, match=r'config\.loss\.label_smoothing is missing; its default is 0\.0'):
        check(config)
    config = default.get_config()
    config.optimizer.momentun = 0.8
    with pytest.raises(ConfigError, match=r'config\.optimizer\.momentun is not a key.*optimizer\.momentum'):
        check(config)


@pytest.mark.parametrize(
    ('mistyped', 'meant'),
    [
        ('epoch', 'the nearest is config.epochs'),
        ('optimizer.learning_rat', 'the nearest is config.optimizer.learning_rate'),
        ('learning_rate', 'the nearest is config.optimizer.learning_rate'),
        ('model.weight_decay', 'the nearest is config.optimizer.weight_decay'),
        ('optimizer.lr', 'the nearest is config.optimizer.learning_rate'),
        ('model.pretrained', 'configs/default.py lists all'),
        ('amp', 'configs/default.py lists all'),
    ],
)
def test_nearest_key_is_what_was_meant(mistyped, meant):
    assert not_a_key(mistyped) == f'config.{mistyped} is not a key; {meant}'


def test_a_run_may_continue_elsewhere_and_longer_but_not_as_another():
    steps = {'schedule.milestones': (3, 6)}
    saved = json.loads(json.dumps(changed(**steps).to_dict()))
    elsewhere = changed(epochs=99, parallel='pmap', **{'dataset.data_dir': '/tmp'}, **steps)
    assert different_keys(saved, elsewhere) == {}
    other = changed(batch_size=64, **{'model.width': 8}, **steps)
    half = changed(precision='float16', **steps)  # whose checkpoints have a loss scale
    assert different_keys(saved, half) == {'precision': ('float32', 'float16')}
    assert different_keys(saved, other) == {'batch_size': (512, 64), 'model.width': (64, 8)}
    moved = [changed(**{'dataset.folder': path, 'dataset.name': f'folder_{path}'}, **steps) for path in 'ab']
    assert different_keys(moved[0].to_dict(), moved[1]) == {}
    assert list(different_keys(saved, moved[0])) == ['dataset.name']
    # As if these keys had been added since.
    del saved['seed'], saved['loss']['focal_gamma'], saved['schedule']['plateau_metric']
    elsewhere.schedule.plateau_metric = 'val_loss'  # as resolved
    assert different_keys(saved, elsewhere) == {}
    assert different_keys(saved, changed(seed=1, **steps)) == {'seed': (0, 1)}


def test_nothing_is_auto_once_resolved():
    config = changed(precision='auto')
    for validation, metric in ((0.1, 'val_accuracy'), (0.0, 'train_loss')):
        config.dataset.validation = validation
        resolved = resolve(config, jax.devices()[:1])
        assert [key for key, value in flatten(resolved).items() if value == 'auto'] == ['dataset.loader']
        assert resolved.early_stopping.metric == metric
        assert resolved.schedule.plateau_metric == metric.replace('accuracy', 'loss')
    assert config.precision == 'auto'  # resolve returns a copy


@pytest.mark.parametrize(
    ('platform', 'capability', 'precision'),
    [
        ('cpu', None, 'float32'),
        ('gpu', '7.5', 'float32'),  # T4: no units for bfloat16
        ('gpu', '8.0', 'bfloat16'),
        ('gpu', '12.0', 'bfloat16'),
        ('gpu', 'gfx90a', 'bfloat16'),
        ('tpu', None, 'bfloat16'),
    ],
)
def test_precision_suits_the_device(platform, capability, precision):
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    config = default.get_config()
    config.precision = 'auto'
    assert resolve(config, [device]).precision == precision


@pytest.mark.parametrize(
    ('precision', 'available', 'fast', 'parallel', 'convolution'),
    [
        ('float32', True, False, 'jit', 'winograd'),
        ('float32', True, True, 'jit', 'onednn'),
        ('float32', False, True, 'jit', 'winograd'),
        ('float32', True, True, 'pmap', 'winograd'),
        ('float16', True, True, 'jit', 'xla'),
        ('bfloat16', True, False, 'jit', 'onednn'),
        ('bfloat16', True, True, 'pmap', 'xla'),
        ('bfloat16', False, False, 'jit', 'xla'),
    ],
)
def test_convolutions_suit_the_cpu(monkeypatch, precision, available, fast, parallel, convolution):
    monkeypatch.setattr(onednn, 'is_available', lambda precision: available)
    monkeypatch.setattr(onednn, 'is_fast', lambda: fast)
    config = changed(precision=precision, parallel=parallel)
    assert resolve(config, jax.devices()[:1]).model.convolution == convolution
    assert resolve(config, jax.devices()[:2]).model.convolution == 'xla'


@pytest.mark.parametrize(
    ('available', 'precision', 'parallel', 'devices'),
    [
        (False, 'bfloat16', 'jit', 1),
        (True, 'float16', 'jit', 1),
        (True, 'bfloat16', 'pmap', 1),
        (True, 'bfloat16', 'jit', 2),
    ],
)
def test_onednn_is_refused_where_it_is_not_to_be_had(monkeypatch, available, precision, parallel, devices):
    monkeypatch.setattr(onednn, 'is_available', lambda precision: available)
    config = changed(precision=precision, parallel=parallel, **{'model.convolution': 'onednn'})
    with pytest.raises(ConfigError, match='a JAX that has oneDNN'):
        resolve(config, jax.devices()[:devices])


def test_winograd_is_for_float32():
    device = SimpleNamespace(platform='gpu', compute_capability='8.0')
    config = changed(precision='auto', **{'model.convolution': 'winograd'})
    assert resolve(config, [device]).precision == 'float32'


@pytest.mark.parametrize(
    ('asked_for', 'precision'), [('float32', 'float32'), ('bfloat16', 'bfloat16'), ('auto', 'float32')]
)
def test_onednn_keeps_the_precision_asked_for(monkeypatch, asked_for, precision):
    monkeypatch.setattr(onednn, 'is_available', lambda precision: True)
    config = resolve(changed(precision=asked_for, **{'model.convolution': 'onednn'}), jax.devices()[:1])
    assert (config.precision, config.model.convolution) == (precision, 'onednn')


def test_folders_are_absolute_once_resolved(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = changed(**{'dataset.folder': 'my faces', 'dataset.data_dir': '~/data'})
    dataset = resolve(config, jax.devices()[:1]).dataset
    assert (dataset.folder, dataset.cache_dir) == (str(tmp_path / 'my faces'), '')
    assert dataset.data_dir == str(Path('~/data').expanduser())
