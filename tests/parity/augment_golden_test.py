"""Holds augmentation against what torchvision computed for the same parameters (make_golden_augment.py)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import auto_augment, color
from input_pipeline.blur import gaussian_blur
from input_pipeline.erasing import erase
from input_pipeline.geometry import INTERPOLATIONS, perspective, resized_crop, rotate
from input_pipeline.mixing import cutmix_shares, mix
from tests.parity import formula
from training.losses import cross_entropy

GOLDEN = np.load(Path(__file__).parent / 'golden' / 'augment.npz')
OPERATIONS = {name.replace('_', ''): index for index, name in enumerate(auto_augment.OPERATIONS)}


def inputs(name, parameters):
    return jnp.asarray(formula.images(name, len(parameters))), jnp.array(parameters, jnp.float32)


def assert_close(ours, name):
    np.testing.assert_allclose(ours, GOLDEN[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('interpolation', INTERPOLATIONS)
def test_rotation_is_torchvisions(interpolation):
    images, angles = inputs('rotate', formula.ANGLES)
    ours = rotate(images, angles, interpolation=interpolation, fill=formula.FILL)
    assert_close(ours, f'rotate {interpolation}')


def test_perspective_is_torchvisions():
    images = jnp.asarray(formula.images('perspective', len(formula.CORNERS)))
    assert_close(jax.jit(perspective)(images, jnp.array(formula.CORNERS)), 'perspective')


def test_resized_crop_is_torchvisions():
    assert_close(resized_crop(*inputs('resized crop', formula.CROPS)), 'resized crop')


@pytest.mark.parametrize('size', list(formula.BLURS))
def test_blur_is_torchvisions(size):
    assert_close(gaussian_blur(*inputs(f'blur {size}', formula.BLURS[size]), size=size), f'blur {size}')


@pytest.mark.parametrize('name', list(color.ADJUSTMENTS))
def test_adjustment_is_torchvisions(name):
    assert_close(color.adjust(name, *inputs(name, formula.FACTORS[name])), name)


def test_sharpness_is_torchvisions():
    ours = auto_augment.adjust_sharpness(*inputs('sharpness', formula.FACTORS['sharpness']))
    assert_close(ours, 'sharpness')


def test_jitter_in_each_order_is_torchvisions():
    factors, orders = zip(*formula.JITTERS, strict=True)
    images, factors = inputs('jitter', factors)
    assert_close(color.jitter(images, factors, np.array(orders), names=list(color.ADJUSTMENTS)), 'jitter')


def test_erased_rectangle_is_torchvisions():
    assert_close(erase(formula.images('erase', len(formula.BOXES)), jnp.array(formula.BOXES)), 'erase')


def test_operations_are_torchvisions():
    images, magnitudes = zip(
        *(inputs(name, formula.OPERATIONS[name]) for name in formula.OPERATIONS), strict=True
    )
    counts = [len(values) for values in magnitudes]
    chosen = np.repeat([OPERATIONS[name.lower()] for name in formula.OPERATIONS], counts)
    ours = jax.jit(auto_augment.apply)(jnp.concatenate(images), chosen, jnp.concatenate(magnitudes))
    for name, results in zip(formula.OPERATIONS, np.split(ours, np.cumsum(counts)[:-1]), strict=True):
        assert_close(results, name)


def test_equalized_image_is_torchvisions():
    assert_close(auto_augment.equalize(formula.images('equalize', 1, formula.EQUALIZED_SHAPE)), 'equalize')


@pytest.mark.parametrize(('space', 'wide'), [('randaugment', False), ('trivialaugment', True)])
def test_magnitudes_are_torchvisions(space, wide):
    table = auto_augment.magnitudes(*formula.IMAGE_SHAPE[:2], wide=wide)
    rows = [OPERATIONS[name.lower()] for name in formula.OPERATIONS]
    np.testing.assert_allclose(table[rows], GOLDEN[f'{space} magnitudes'], rtol=1e-6, atol=1e-5)
    signed = [name in auto_augment.SIGNED for name in auto_augment.OPERATIONS]
    np.testing.assert_array_equal(np.array(signed)[rows], GOLDEN[f'{space} signed'])


@pytest.mark.parametrize('name', ['mixup', *(f'cutmix {i}' for i in range(len(formula.CUTMIXES)))])
def test_mixed_images_and_targets_are_torchvisions(name):
    height, width = formula.IMAGE_SHAPE[:2]
    if name == 'mixup':
        own = jnp.full((height, width), formula.MIXUP_SHARE)
    else:
        share, center = formula.CUTMIXES[int(name[-1])]
        own = cutmix_shares(share, jnp.array(center), height, width)
    images, targets = mix(formula.images('mix', 2), formula.probabilities('mix', 2), own)
    assert_close(images, name)
    assert_close(targets, f'{name} targets')


def test_cross_entropy_of_smoothed_probabilities_is_torchs():
    logits = formula.draw('logits', (formula.BATCH, formula.CLASSES)) * 3
    targets = formula.probabilities('targets', formula.BATCH)
    ours = cross_entropy(logits, targets, label_smoothing=formula.LABEL_SMOOTHING)
    assert_close(ours, 'soft cross entropy')
