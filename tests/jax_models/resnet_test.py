from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from jax_models import create_model, registry
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


# The counts that the recipes state.
VARIANTS = [
    (6_290_506, 10, {'name': 'cnn5'}),
    (643_492, 100, {'name': 'simple_cnn', 'width': 32}),
    (21_696_676, 100, {'name': 'resnet34', 'stem': 'cifar_pool', 'head_sizes': (512, 256)}),
    (4_697_742, 10, {'name': 'resnet', 'stage_sizes': (4, 4, 3), 'se': 'stem'}),
    (4_903_242, 10, {'name': 'resnet10'}),
    (5_419_338, 10, {'name': 'resnet10', 'shortcut_kernel_sizes': (2, 2, 2, 2)}),
    (6_279_498, 10, {'name': 'resnet10', 'shortcut_kernel_sizes': (3, 3, 3, 3)}),
    (12_550_218, 10, {'name': 'resnet18', 'shortcut_kernel_sizes': (3, 3, 3, 3)}),
]


@pytest.mark.parametrize(('name', 'ratio'), [('pytorch', 1 / 3**0.5), ('kaiming_normal', 2**0.5)])
def test_a_model_begins_as_its_config_says(name, ratio):
    """Deviations of the kernels times the root of fan in; biases are PyTorch's whatever the kernels."""
    config = model_config(name='simple_cnn', width=16, hidden=64, initialization=name)
    model = create_model(config, num_classes=50)
    params = model.init(KEY, jnp.zeros((1, 8, 8, 3)), train=False)['params']
    kernels = [layer['kernel'] for layer in params.values()]
    assert {kernel.ndim for kernel in kernels} == {2, 4}
    for kernel in kernels:
        assert kernel.std() * np.prod(kernel.shape[:-1]) ** 0.5 == pytest.approx(ratio, rel=0.1)
    for layer in params.values():
        assert 0 < jnp.abs(layer['bias']).max() <= np.prod(layer['kernel'].shape[:-1]) ** -0.5


@pytest.mark.parametrize('key', ['activation', 'initialization', 'head', 'se', 'convolution', 'stem'])
def test_unknown_values_are_not_taken_for_others(key):
    with pytest.raises(KeyError, match='unknown'):
        abstract(create_model(model_config(width=2, **{key: 'unknown'}), num_classes=3))


def test_a_model_of_ones_own_gets_what_it_has_fields_for(monkeypatch):
    class Perceptron(nn.Module):
        num_classes: int
        width: int

        @nn.compact
        def __call__(self, images, *, train):
            return nn.Dense(self.num_classes)(nn.relu(nn.Dense(self.width)(images.reshape(len(images), -1))))

    monkeypatch.setitem(registry.MODELS, 'perceptron', Perceptron)
    model = create_model(model_config(name='perceptron', width=7), num_classes=3)
    assert (model.num_classes, model.width) == (3, 7)
    assert registry.stage_count(model_config(name='perceptron')) is None

    class Staged(Perceptron):
        stage_sizes: tuple = (2, 2)

    monkeypatch.setitem(registry.MODELS, 'staged', Staged)
    staged = [model_config(name='staged'), model_config(name='staged', stage_sizes=(3, 3, 3))]
    assert [registry.stage_count(config) for config in staged] == [2, 3]
    assert [create_model(c, num_classes=3).stage_sizes for c in staged] == [(2, 2), (3, 3, 3)]
    monkeypatch.setitem(registry.MODELS, 'partial', partial(Staged, width=5))
    assert create_model(model_config(name='partial'), num_classes=3).stage_sizes == (2, 2)
    imported = create_model(model_config(name='jax_models.cnn5:CNN5'), num_classes=3)
    assert (type(imported).__name__, imported.num_classes) == ('CNN5', 3)


def test_the_tables_of_parameters_name_every_model():
    assert {*PARAMETERS, *(changes['name'] for _, _, changes in VARIANTS)} == set(registry.MODELS)


@pytest.mark.parametrize(('count', 'classes', 'changes'), VARIANTS)
def test_parameter_counts_of_variants(count, classes, changes):
    logits, variables = abstract(create_model(model_config(**changes), num_classes=classes), 32)
    assert parameter_count(variables['params']) == count
    assert logits.shape == (2, classes)


@pytest.mark.parametrize(
    'changes',
    [
        {'name': 'cnn5', 'head': 'cosine'},
        {
            'name': 'resnet10',
            'shortcut_kernel_sizes': (1, 2, 3, 4),
            'se': 'stem',
            'se_reduction': 1,
            'block_dropout': 0.1,
        },
        {
            'name': 'resnet50',
            'stage_sizes': (1, 1),
            'stem': 'cifar_pool',
            'head_sizes': (8, 6),
            'dropout': 0.1,
        },
    ],
)
def test_every_parameter_gets_a_gradient(changes):
    model = create_model(model_config(width=4, activation='gelu', **changes), num_classes=5)
    images = jax.random.normal(KEY, (4, 16, 16, 3))

    @jax.jit
    def gradients():
        variables = model.init(KEY, images, train=False)

        def loss(params):
            logits, _ = model.apply(
                {**variables, 'params': params},
                images,
                train=True,
                mutable=['batch_stats'],
                rngs={'dropout': KEY},
            )
            return jnp.square(logits).sum()

        return jax.grad(loss)(variables['params'])

    for path, gradient in jax.tree.leaves_with_path(jax.device_get(gradients())):
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize('name', PARAMETERS)
@pytest.mark.parametrize(('stem', 'classes'), [('imagenet', 1000), ('cifar', 10)])
def test_parameter_counts_and_names_of_blocks(name, stem, classes):
    model = create_model(model_config(name=name, stem=stem), num_classes=classes)
    logits, variables = abstract(model, 32)
    assert parameter_count(variables['params']) == PARAMETERS[name][stem]
    blocks = {f'layer{stage}_{i}' for stage, size in enumerate(model.stage_sizes, 1) for i in range(size)}
    assert {module for module in variables['params'] if module.startswith('layer')} == blocks
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
        kernel_size=3,
        shortcut_kernel_size=1,
        conv=lambda *args, **keys: nn.Conv(*args, use_bias=False, **keys),
        norm=BatchNorm,
        activation=nn.relu,
        gate=None,
        dropout=0.0,
        zero_init_last_norm=True,
    )
    x = jax.random.normal(KEY, (2, 4, 4, 4 * block.expansion))
    y, _ = jax.jit(lambda: module.init_with_output(KEY, x, train=True))()
    np.testing.assert_array_equal(y, nn.relu(x))
