from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from jax_models import create_model, model_names
from jax_models.layers import BatchNorm
from jax_models.resnet import BasicBlock, Bottleneck
from jax_models.summary import parameter_count

# As torchvision's with its 7x7 stem and 1000 classes, and with the 3x3 stem and 10 classes.
PARAMETERS = {
    'resnet18': {'imagenet': 11_689_512, 'cifar': 11_173_962},
    'resnet34': {'imagenet': 21_797_672, 'cifar': 21_282_122},
    'resnet50': {'imagenet': 25_557_032, 'cifar': 23_520_842},
    'resnet101': {'imagenet': 44_549_160, 'cifar': 42_512_970},
    'resnet152': {'imagenet': 60_192_808, 'cifar': 58_156_618},
}
KEY = jax.random.key(0)


def model_config(**changes):
    config = default.get_config().model
    config.convolution = 'xla'
    config.update(changes)
    return config


def abstract(model, side=8):
    """Returns the shapes of logits and variables of `model` for two images."""
    images = jnp.zeros((2, side, side, 3))
    return jax.eval_shape(lambda: model.init_with_output(KEY, images, train=False))


def test_the_table_of_parameters_names_every_model():
    assert set(PARAMETERS) == set(model_names())


@pytest.mark.parametrize('name', PARAMETERS)
@pytest.mark.parametrize(('stem', 'classes'), [('imagenet', 1000), ('cifar', 10)])
def test_parameter_counts(name, stem, classes):
    logits, variables = abstract(create_model(model_config(name=name, stem=stem), num_classes=classes), 32)
    assert parameter_count(variables['params']) == PARAMETERS[name][stem]
    assert logits.shape == (2, classes)


@pytest.fixture(scope='module')
def narrow():
    """A short ResNet with dropout: its variables, and compiled `train` and `evaluate` of one batch."""
    model = create_model(model_config(width=4, dropout=0.5), num_classes=5).clone(stage_sizes=(1, 1))
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 8, 8, 3)).astype(np.float32)
    variables = jax.tree.map(
        lambda x: random.uniform(0.1, 0.2, x.shape).astype(np.float32), abstract(model)[1]
    )

    @jax.jit
    def train(variables, key):
        rngs = {'dropout': key}
        return model.apply(variables, images, train=True, mutable=['batch_stats'], rngs=rngs)

    @jax.jit
    def evaluate(variables):
        features = model.apply(variables, images, train=False, method='features')
        logits, updates = model.apply(variables, images, train=False, mutable=['batch_stats'])
        return logits, updates, features

    return SimpleNamespace(variables=variables, train=train, evaluate=evaluate)


def test_batch_statistics_move_only_in_training(narrow):
    before = jax.tree.leaves(narrow.variables['batch_stats'])
    _, trained = narrow.train(narrow.variables, KEY)
    _, evaluated, _ = narrow.evaluate(narrow.variables)
    assert all((a != b).any() for a, b in zip(before, jax.tree.leaves(trained), strict=True))
    assert all((a == b).all() for a, b in zip(before, jax.tree.leaves(evaluated), strict=True))


def test_dropout_acts_only_in_training(narrow):
    first, _ = narrow.train(narrow.variables, jax.random.key(1))
    second, _ = narrow.train(narrow.variables, jax.random.key(2))
    assert (first != second).any()
    logits, _, features = narrow.evaluate(narrow.variables)
    fc = narrow.variables['params']['fc']
    np.testing.assert_allclose(logits, features @ fc['kernel'] + fc['bias'], rtol=1e-5)


def test_bfloat16_computes_features_but_not_logits_or_variables():
    model = create_model(model_config(width=4), num_classes=5, dtype=jnp.bfloat16)
    logits, variables = abstract(model)
    images = jnp.zeros((2, 8, 8, 3))
    features = jax.eval_shape(lambda v: model.apply(v, images, train=False, method='features'), variables)
    assert (features.shape, features.dtype, logits.dtype) == ((2, 32), jnp.bfloat16, jnp.float32)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('block', [BasicBlock, Bottleneck])
def test_zero_init_last_norm_starts_blocks_as_their_shortcut(block):
    module = block(
        channels=4,
        stride=1,
        project=False,
        conv=lambda *args, **keys: nn.Conv(*args, use_bias=False, **keys),
        norm=BatchNorm,
        activation=nn.relu,
        zero_init_last_norm=True,
    )
    x = jax.random.normal(KEY, (2, 4, 4, 4 * block.expansion))
    y, _ = jax.jit(lambda: module.init_with_output(KEY, x, train=True))()
    np.testing.assert_array_equal(y, nn.relu(x))
