import importlib
from pathlib import Path

import flax.linen as nn
import pytest

from configs import default
from jax_models import registry
from training import ConfigError
from training import unused_keys as unused_keys_module
from training.contradictions import check_together
from training.keys import flatten
from training.unused_keys import unused_keys

CONFIGS = sorted(path.stem for path in (Path(__file__).parents[2] / 'configs').glob('[!_]*.py'))


@pytest.mark.parametrize(
    ('keys', 'unused'),
    [
        ({'schedule.milestones': (1, 2)}, {'schedule.milestones': 'schedule.name=cosine'}),
        ({'schedule.milestones': (1, 2), 'schedule.name': 'multistep'}, {}),
        ({'augmentation.blur_sigma_max': 3.0}, {'augmentation.blur_sigma_max': 'augmentation.blur=0'}),
        ({'augmentation.blur_sigma_max': 3.0, 'augmentation.blur': 3}, {}),
        ({'model.se_reduction': 8}, {'model.se_reduction': 'model.se=none'}),
        ({'model.se_reduction': 8, 'model.se': 'stem'}, {}),
        ({'model.se': 'stem', 'model.name': 'cnn5'}, {'model.se': 'model.name=cnn5'}),
        ({'model.se': 'stem'}, {}),
        ({'model.stem': 'imagenet', 'model.name': 'simple_cnn'}, {'model.stem': 'model.name=simple_cnn'}),
        ({'dataset.bad_images': 'skip'}, {'dataset.bad_images': 'dataset.folder='}),
        ({'dataset.validation_seed': 1}, {}),
        ({'loss_scale.max': 2.0}, {'loss_scale.max': 'precision=float32'}),
        ({'loss_scale.max': 2.0, 'precision': 'float16'}, {}),
        (
            {'optimizer.momentum': 0.8, 'schedule.name': 'onecycle'},
            {'optimizer.momentum': 'schedule.cycle_momentum=True'},
        ),
        ({'wandb.project': 'mine'}, {'wandb.project': 'wandb.mode=disabled'}),
        ({'optimizer.momentum': 0.9}, {}),  # its default
        ({'verification.flip': True}, {'verification.flip': 'verification.pairs='}),
        ({'checkpoint.min_seconds': 5.0, 'checkpoint.every_epochs': 2}, {}),
        (
            {'checkpoint.min_seconds': 5.0, 'checkpoint.every_epochs': 0},
            {'checkpoint.min_seconds': 'checkpoint.every_epochs=0'},
        ),
        (
            {'schedule.base_momentum': 0.8, 'schedule.name': 'onecycle', 'schedule.cycle_momentum': False},
            {'schedule.base_momentum': 'schedule.cycle_momentum=False'},
        ),
    ],
)
def test_keys_without_effect_are_found(keys, unused):
    config = default.get_config()
    config.update_from_flattened_dict(keys)
    assert unused_keys(config) == unused


def test_keys_that_a_model_of_ones_own_has_no_field_for_are_found(monkeypatch):
    monkeypatch.setitem(registry.MODELS, 'linear', nn.Dense)
    config = default.get_config()
    config.model.update(name='linear', width=7, dropout=0.5, head='cosine')
    assert set(unused_keys(config)) == {'model.width', 'model.dropout', 'model.head'}
    config.loss.name = 'arcface'
    with pytest.raises(ConfigError, match=r'config\.model\.name=linear has no field'):
        check_together(config)


def test_every_key_that_decides_is_one():
    assert {decides for _, decides, _ in unused_keys_module._READ_WITH} <= set(flatten(default.get_config()))


@pytest.mark.parametrize('name', CONFIGS)
def test_configs_set_nothing_without_effect(name):
    assert unused_keys(importlib.import_module(f'configs.{name}').get_config()) == {}
