"""The configs of the recipes against the originals, value by value."""

import math
from importlib import import_module

import numpy as np
import pytest

from jax_models import create_model, summary
from training.keys import flatten
from training.schedules import Plateau, hyperparameters

# What they share; everything that would change a run is named.
COMMON = {
    'precision': 'float32',
    'dataset.folder': '',
    'dataset.train_split': 'train',
    'dataset.validation_split': '',
    'dataset.test_split': 'test',
    'dataset.validation': 0,
    'dataset.validation_seed': 42,
    'dataset.watch_test': True,
    'dataset.drop_last': False,
    'dataset.normalization': 'dataset',
    'augmentation.crop_padding': 4,
    'augmentation.crop_mode': 'zero',
    'augmentation.crop_scale_min': 1.0,
    'augmentation.flip': True,
    'augmentation.brightness': 0.0,
    'augmentation.contrast': 0.0,
    'augmentation.saturation': 0.0,
    'augmentation.hue': 0.0,
    'augmentation.rotation': 0.0,
    'augmentation.perspective': 0.0,
    'augmentation.blur': 0,
    'augmentation.auto': 'none',
    'augmentation.cutout': 0,
    'augmentation.erasing': 0.0,
    'augmentation.mixup_alpha': 0.0,
    'augmentation.cutmix_alpha': 0.0,
    'model.width': 64,
    'model.stem': 'cifar',
    'model.activation': 'relu',
    'model.stage_sizes': (),
    'model.kernel_sizes': (),
    'model.shortcut_kernel_sizes': (),
    'model.se': 'none',
    'model.head': 'linear',
    'model.head_sizes': (),
    'model.dropout': 0.0,
    'model.block_dropout': 0.0,
    'model.initialization': 'pytorch',
    'model.zero_init_last_norm': False,
    'batch_norm.sync': True,
    'loss.name': 'cross_entropy',
    'loss.label_smoothing': 0.0,
    'optimizer.name': 'sgd',
    'optimizer.learning_rate': 0.1,
    'optimizer.scale_with_batch': 'none',
    'optimizer.momentum': 0.9,
    'optimizer.nesterov': False,
    'optimizer.weight_decay': 5e-4,
    'optimizer.decay_norm_and_bias': True,
    'optimizer.clip_value': 0.0,
    'optimizer.clip_norm': 0.0,
    'optimizer.lookahead_steps': 0,
    'optimizer.accumulation_steps': 1,
    'schedule.name': 'cosine',
    'schedule.interval': 'epoch',
    'schedule.warmup_epochs': 0.0,
    'schedule.final_learning_rate': 0.0,
    'ema.decay': 0.0,
    'early_stopping.patience': 0,
}
# Parameters, the period of the cosine in epochs, and what else a recipe has of its own.
RECIPES = {
    'simple_cnn_cifar100': (
        643_492,
        5,
        {
            'epochs': 5,
            'batch_size': 512,
            'dataset.name': 'cifar100',
            'dataset.validation': 0.2,
            'dataset.watch_test': False,
            'dataset.normalization': 'half',
            'augmentation.crop_padding': 0,
            'augmentation.flip': False,
            'model.name': 'simple_cnn',
            'model.width': 32,
        },
    ),
    'resnet34_cifar100': (
        21_696_676,
        10,
        {
            'epochs': 10,
            'batch_size': 128,
            'dataset.name': 'cifar100',
            'dataset.validation': 0.2,
            'dataset.watch_test': False,
            'augmentation.brightness': 0.1,
            'augmentation.contrast': 0.1,
            'augmentation.saturation': 0.1,
            'augmentation.hue': 0.05,
            'model.name': 'resnet34',
            'model.stem': 'cifar_pool',
            'model.head_sizes': (512, 256),
            'model.dropout': 0.3,
            'model.initialization': 'torchvision',
        },
    ),
    'se_resnet_cifar10': (
        4_697_742,
        200,
        {
            'epochs': 200,
            'batch_size': 128,
            'dataset.name': 'cifar10',
            'model.name': 'resnet',
            'model.stage_sizes': (4, 4, 3),
            'model.se': 'stem',
            'model.se_reduction': 16,
            'model.max_parameters': 5_000_000,
            'optimizer.clip_value': 0.1,
        },
    ),
    'resnet18_plain': (
        11_173_962,
        200,
        {
            'epochs': 200,
            'batch_size': 128,
            'dataset.name': 'cifar10',
            'dataset.normalization': 'none',
            'augmentation.crop_padding': 0,
            'augmentation.flip': False,
            'model.name': 'resnet18',
        },
    ),
    'resnet10_cifar10': (
        4_903_242,
        195,
        {
            'epochs': 51,
            'batch_size': 256,
            'dataset.name': 'cifar10',
            'augmentation.cutout': 8,
            'augmentation.cutout_after_normalization': True,
            'model.name': 'resnet10',
            'model.max_parameters': 5_000_000,
            'optimizer.name': 'adam',
            'optimizer.learning_rate': 0.01,
            'optimizer.beta1': 0.9,
            'optimizer.beta2': 0.999,
            'optimizer.epsilon': 1e-8,
            'optimizer.weight_decay': 0.0,
            'optimizer.lookahead_steps': 5,
            'optimizer.lookahead_alpha': 0.5,
        },
    ),
}


@pytest.mark.parametrize('name', RECIPES)
def test_config_is_the_originals(name):
    parameters, period, own = RECIPES[name]
    config = import_module(f'configs.{name}').get_config()
    expected, given = {**COMMON, **own}, flatten(config)
    assert {key: given[key] for key in expected} == expected

    model = create_model(config.model, num_classes=int(config.dataset.name.removeprefix('cifar')))
    _, variables = summary.abstract_outputs(model, (32, 32, 3))
    assert summary.parameter_count(variables['params']) == parameters

    for epoch in (0, 1, config.epochs // 2, config.epochs - 1):
        rate = expected['optimizer.learning_rate'] * (1 + math.cos(math.pi * epoch / period)) / 2
        applied = hyperparameters(config, 3, epoch, Plateau())['learning_rate']
        np.testing.assert_allclose(applied, [rate] * 3, rtol=1e-9)
