from types import SimpleNamespace

import numpy as np
import pytest

from configs import default
from jax_models import onednn
from training import advice


def experiment(keys, *, side=32, held_out=20, other_splits=()):
    config = default.get_config()
    config.optimizer.name, config.dataset.validation = 'sgd', held_out
    config.update_from_flattened_dict(keys)
    val = SimpleNamespace(labels=np.arange(held_out) % 2, size=held_out)
    return SimpleNamespace(
        config=config,
        dataset=SimpleNamespace(
            image_shape=(side, side, 3), num_classes=2, class_names=('cat', 'dog'), other_splits=other_splits
        ),
        loaders={'train': SimpleNamespace(size=30)} | ({'val': val} if held_out else {}),
    )


@pytest.mark.parametrize(
    ('keys', 'others', 'expected'),
    [
        ({'model.stem': 'imagenet'}, {}, 'images of 32 pixels; --config.model.stem=cifar suits them'),
        ({'model.stem': 'imagenet'}, {'side': 65}, None),
        ({'model.stem': 'imagenet', 'model.name': 'cnn5'}, {}, None),
        ({}, {'side': 111}, None),
        ({}, {'side': 112}, '--config.model.stem=imagenet needs a fifteenth of the work'),
        ({'model.stem': 'cifar_pool'}, {'side': 112}, None),
        ({'model.stem': 'cifar_pool'}, {'side': 160}, 'stem=imagenet needs a quarter of the work'),
        ({'optimizer.name': 'adamw', 'optimizer.learning_rate': 0.1}, {}, 'rate of 0.1 is high for adamw'),
        ({'optimizer.name': 'adam', 'optimizer.learning_rate': 0.01}, {}, None),
        ({'optimizer.weight_decay': 0.05}, {}, '=0.05 is high for sgd, which adds it to the gradient'),
        ({'optimizer.weight_decay': 0.05, 'optimizer.name': 'muon'}, {}, None),
        ({'schedule.name': 'step', 'epochs': 30}, {}, 'step_size has it fall after 30 epochs, and there'),
        ({'schedule.name': 'step', 'epochs': 31}, {}, None),
        (
            {'schedule.name': 'multistep', 'schedule.milestones': (39,), 'schedule.warmup_epochs': 2.0},
            {},
            'schedule.milestones has it fall after 39 epochs, and there are 38',
        ),
        ({'dataset.validation': 31}, {'held_out': 31}, 'validation=31 holds out more images than it leaves'),
        ({}, {'held_out': 1}, 'no image is held out of 1 classes (dog), the smallest'),
        ({}, {'other_splits': ('ver_data', 'val')}, 'the split val instead: --config.dataset.validation=0'),
        ({}, {'other_splits': ('val',), 'held_out': 0}, None),
    ],
)  # fmt: skip
def test_what_is_hardly_meant_is_mentioned(keys, others, expected):
    said = list(advice.advise(experiment(keys, **others)))
    assert len(said) == (expected is not None)
    assert not said or expected in said[0]


@pytest.mark.parametrize(('there', 'asked_for', 'warned'), [(1, None, 1), (1, 'cpu', 0), (0, None, 0)])
def test_a_gpu_that_is_not_used_is_mentioned(monkeypatch, there, asked_for, warned):
    monkeypatch.setattr(advice, 'has_nvidia_gpu', lambda: there)
    monkeypatch.setattr(
        advice,
        'jax',
        SimpleNamespace(default_backend=lambda: 'cpu', config=SimpleNamespace(jax_platforms=asked_for)),
    )
    said = ' '.join(advice.advise(experiment({})))
    assert ('JAX runs on the CPU' in said) == warned


@pytest.mark.parametrize(
    ('convolution', 'precision', 'side', 'flags', 'said'),
    [
        ('winograd', 'float32', 32, 'avx2 amx_bf16 amx_tile', 1),
        ('winograd', 'float32', 28, 'avx2 amx_bf16 amx_tile', 0),
        ('winograd', 'float32', 32, 'avx2', 0),
        ('onednn', 'float32', 32, 'avx2 amx_bf16 amx_tile', 1),
        ('onednn', 'bfloat16', 32, 'avx2 amx_bf16 amx_tile', 0),
    ],
)
def test_a_cpu_that_is_faster_in_bfloat16_is_mentioned(
    monkeypatch, tmp_path, convolution, precision, side, flags, said
):
    (tmp_path / 'cpuinfo').write_text(f'flags : fpu {flags}\n')
    monkeypatch.setattr(onednn, '_CPU', tmp_path / 'cpuinfo')
    monkeypatch.setattr(onednn, 'is_available', lambda precision: True)
    sentences = advice.advise(
        experiment({'model.convolution': convolution, 'precision': precision}, side=side)
    )
    assert ['--config.precision=bfloat16' in sentence for sentence in sentences] == [True] * said
