import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_models.layers import ACTIVATIONS, INITIALIZERS, BatchNorm, CosineLinear, Linear, max_pool

KERNEL = (3, 3, 32, 64)  # height, width, in, out


def test_pytorch_kernels_are_uniform_within_the_root_of_fan_in():
    kernel = INITIALIZERS['pytorch'][0](jax.random.key(0), KERNEL)
    bound = (3 * 3 * 32) ** -0.5
    assert 0.999 * bound < jnp.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_torchvision_kernels_are_kaiming_normal_over_fan_out():
    kernel = INITIALIZERS['torchvision'][0](jax.random.key(0), KERNEL)
    assert kernel.std() == pytest.approx((2 / (3 * 3 * 64)) ** 0.5, rel=0.02)
    assert jnp.abs(kernel).max() > 3 * kernel.std()  # not truncated at two


@pytest.mark.parametrize(
    ('name', 'std'),
    [
        ('xavier_uniform', (2 / (9 * 32 + 9 * 64)) ** 0.5),
        ('xavier_normal', (4 / (9 * 32 + 9 * 64)) ** 0.5),
        ('kaiming_normal', (2 / (9 * 32)) ** 0.5),
        ('orthogonal', (2 / (9 * 32)) ** 0.5),
        ('normal', 0.02),
    ],
)
def test_kernels_have_the_deviation_of_torchs_initialiser(name, std):
    kernel = INITIALIZERS[name][0](jax.random.key(0), KERNEL)
    assert kernel.std() == pytest.approx(std, rel=0.02)


def test_orthogonal_kernels_have_orthogonal_outputs():
    kernel = INITIALIZERS['orthogonal'][0](jax.random.key(0), KERNEL).reshape(-1, 64)
    np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(64), atol=1e-4)


def test_linear_layers_begin_as_pytorchs():
    params = Linear(400).init(jax.random.key(0), jnp.zeros((1, 100)))['params']
    for values in params.values():  # kernel and bias
        assert 0.09 < jnp.abs(values).max() <= 0.1
        assert values.std() == pytest.approx(0.1 / 3**0.5, rel=0.1)


def test_cosine_head_compares_directions_alone():
    x = jax.random.normal(jax.random.key(1), (3, 7))
    head = CosineLinear(5, scale=8.0)
    logits, variables = head.init_with_output(jax.random.key(0), x)
    kernel = variables['params']['kernel']
    lengths = jnp.linalg.norm(x, axis=1)[:, None] * jnp.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(logits, 8 * (x @ kernel) / lengths, rtol=1e-5)
    longer = {'params': {'kernel': 3 * kernel}}
    np.testing.assert_allclose(head.apply(longer, x.astype(jnp.float16) / 4), logits, atol=0.01)


def test_features_of_0_have_no_gradient():
    head = CosineLinear(5)
    variables = head.init(jax.random.key(0), jnp.zeros((2, 7)))
    gradient = jax.grad(lambda x: head.apply(variables, x).sum())(jnp.zeros((2, 7)))
    assert (gradient == 0).all()


@pytest.mark.parametrize(('size', 'stride', 'padding'), [(2, 2, 0), (3, 2, 1)])
def test_max_pool_and_its_gradient_are_flaxs(size, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))

    def flax(x):
        return nn.max_pool(x, (size, size), strides=(stride, stride), padding=((padding, padding),) * 2)

    output, pull = jax.vjp(lambda x: max_pool(x, size, stride, padding), x)
    expected, pull_expected = jax.vjp(flax, x)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_allclose(*pull(output), *pull_expected(expected), rtol=1e-6)


def test_max_pool_rounds_gradients_once():
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3), jnp.bfloat16)
    output, pull = jax.vjp(lambda x: max_pool(x, 3, 1, 1), x)
    exact, pull_exact = jax.vjp(lambda x: max_pool(x, 3, 1, 1), x.astype(jnp.float32))
    assert output.dtype == jnp.bfloat16
    np.testing.assert_array_equal(pull(output)[0], pull_exact(exact)[0].astype(jnp.bfloat16))


def test_batch_norm_normalises_with_the_biased_and_keeps_the_unbiased_variance():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4)) * 5 + 2
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    y, updates = norm.apply(variables, x, train=True, mutable=['batch_stats'])
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-4)
    flat = x.reshape(-1, 4)
    expected = {'mean': 0.1 * flat.mean(0), 'var': 0.9 + 0.1 * flat.var(0, ddof=1)}
    for name, values in expected.items():
        np.testing.assert_allclose(updates['batch_stats'][name], values, rtol=1e-5)


# Far from zero the float32 variance is a difference of squares 900 times as large.
@pytest.mark.parametrize(('mean', 'error'), [(0, 2e-6), (30, 1e-3)])
def test_batch_norms_gradients_are_those_of_its_formula(mean, error):
    x, gradient = jax.random.normal(jax.random.key(0), (2, 8, 6, 6, 4))
    x += mean
    parameters = {'scale': jnp.arange(1.0, 5), 'bias': jnp.ones(4)}

    def ours(x, parameters):
        norm, statistics = BatchNorm(), {'mean': jnp.zeros(4), 'var': jnp.ones(4)}
        variables = {'params': parameters, 'batch_stats': statistics}
        return norm.apply(variables, x, train=True, mutable=['batch_stats'])[0]

    def formula(x, parameters):
        normalized = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5)
        return normalized * parameters['scale'] + parameters['bias']

    found = jax.vjp(ours, x, parameters)[1](gradient)
    with jax.enable_x64(True):
        x, gradient, parameters = jax.tree.map(lambda a: np.asarray(a, np.float64), (x, gradient, parameters))
        expected = jax.vjp(formula, x, parameters)[1](gradient)
        expected = jax.tree.map(np.asarray, expected)
    for one, exact in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(one - exact) < error * np.linalg.norm(exact)


def test_batch_norm_keeps_float32_statistics_of_bfloat16():
    x = jnp.ones((8, 2, 2, 3), jnp.bfloat16)
    y, variables = BatchNorm().init_with_output(jax.random.key(0), x, train=True)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


def test_batch_norm_refuses_to_train_on_single_values():
    variables = BatchNorm().init(jax.random.key(0), jnp.ones((2, 1, 1, 3)), train=True)
    with pytest.raises(ValueError, match='needs more than one value of each channel'):
        BatchNorm().apply(variables, jnp.ones((1, 1, 1, 3)), train=True, mutable=['batch_stats'])


def test_gelu_is_the_exact_one():
    assert ACTIVATIONS['gelu'](1.0) == pytest.approx(0.8413447, rel=1e-5)  # the normal distribution's


def test_a_bfloat16_layer_sums_in_float32():
    layer, x = Linear(5, dtype=jnp.bfloat16), jax.random.normal(jax.random.key(1), (64, 32))
    variables = layer.init(jax.random.key(0), x)
    logits = layer.apply(variables, x)
    assert logits.dtype == jnp.float32
    assert (logits != logits.astype(jnp.bfloat16)).mean() > 0.9
    # The sum of 4,096 ones is 256 in bfloat16.
    ones = jnp.ones((4096, 32))
    gradient = jax.grad(lambda v: layer.apply(v, ones).sum())(variables)['params']['bias']
    np.testing.assert_array_equal(gradient, 4096)
