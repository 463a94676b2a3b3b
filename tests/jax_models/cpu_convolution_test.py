import flax.linen as nn
import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from jax_models import chunks, cpu_convolution, winograd
from jax_models.cpu_convolution import conv_general_dilated

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


@pytest.fixture(autouse=True)
def _small_problems_too(monkeypatch):
    monkeypatch.setattr(cpu_convolution, '_MIN_FLOPS', 0)
    monkeypatch.setattr(cpu_convolution, '_MIN_FLOPS_WINOGRAD', 0)
    monkeypatch.setattr(winograd, 'MIN_TILES', 1)
    monkeypatch.setattr(chunks, '_CHUNK_BYTES', 2**14)


def _values(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ('batch', 'height', 'width', 'channels', 'features', 'kernel', 'stride', 'padding'),
    [
        (6, 8, 8, 64, 80, 3, 1, 'SAME'),  # Winograd
        (7, 7, 12, 64, 64, 3, 1, [(1, 1), (1, 1)]),  # prime batch, tiles that do not fit
        (4, 4, 4, 32, 48, 3, 1, 'SAME'),  # XLA's forward pass, Winograd's backward pass
        (3, 8, 8, 128, 128, 3, 2, [(1, 1), (1, 1)]),
        (3, 8, 8, 16, 32, 3, 2, [(1, 1), (1, 1)]),
        (5, 9, 11, 16, 16, 3, 2, 'SAME'),
        (2, 9, 8, 16, 16, 2, 3, 'VALID'),  # pixels that no tap reaches
        (3, 15, 15, 3, 8, 7, 2, [(3, 3), (3, 3)]),
        (3, 8, 8, 16, 16, 3, 1, 'SAME'),
        (3, 8, 8, 3, 8, 3, 1, 'SAME'),
        (3, 7, 9, 8, 12, 5, 1, [(1, 4), (0, 2)]),
        (3, 7, 9, 8, 12, 2, 1, [(3, 0), (2, 1)]),  # more padding than the kernel is wide
        (3, 8, 7, 16, 8, 1, 1, 'SAME'),
        (3, 9, 8, 16, 8, 1, 2, 'VALID'),
        (4, 2, 2, 16, 32, 3, 1, 'SAME'),  # images of a few pixels
        (4, 5, 4, 16, 8, 3, 2, [(1, 1), (1, 1)]),
        (4, 4, 4, 16, 8, 5, 1, 'SAME'),  # fewer pixels than taps
    ],
)
def test_values_and_gradients_are_those_of_exact_convolutions(
    batch, height, width, channels, features, kernel, stride, padding
):
    images = _values((batch, height, width, channels), 0)
    weights = _values((kernel, kernel, channels, features), 1)

    def evaluate(convolve, images, weights):
        output, pull = jax.vjp(
            jax.jit(lambda x, w: convolve(x, w, (stride, stride), padding, dimension_numbers=_LAYOUT)),
            images,
            weights,
        )
        return jax.device_get((output, *pull(_values(output.shape, 2).astype(output.dtype))))

    results = evaluate(conv_general_dilated, images, weights)
    with jax.enable_x64(True):
        exact = evaluate(lax.conv_general_dilated, images.astype(np.float64), weights.astype(np.float64))
    for result, expected in zip(results, exact, strict=True):
        assert np.abs(result - expected).max() < 5e-6 * np.abs(expected).max()


@pytest.mark.parametrize(
    'options',
    [{'feature_group_count': 2}, {'kernel_dilation': 2}, {'input_dilation': 2}, {'dtype': jnp.bfloat16}],
)
def test_what_is_not_covered_is_exactly_what_xla_computes(options):
    images = _values((2, 8, 8, 16), 0)
    xla = nn.Conv(16, (3, 3), padding=1, **options)
    ours = nn.Conv(16, (3, 3), padding=1, **options, conv_general_dilated=conv_general_dilated)
    variables = xla.init(jax.random.key(0), images)
    np.testing.assert_array_equal(xla.apply(variables, images), ours.apply(variables, images))


def test_gradients_under_vmap_are_those_of_xla():
    images, weights = _values((2, 4, 4, 4, 32), 0), _values((2, 3, 3, 32, 32), 1)

    def gradients(convolve):
        def loss(x, w):
            return jnp.sum(convolve(x, w, (1, 1), 'SAME', dimension_numbers=_LAYOUT) ** 2)

        return jax.jit(jax.vmap(jax.grad(loss, argnums=1)))(images, weights)

    expected = gradients(lax.conv_general_dilated)
    scale = jnp.abs(expected).max()
    np.testing.assert_allclose(gradients(conv_general_dilated) / scale, expected / scale, atol=1e-5)


def test_small_problems_go_to_xla(monkeypatch):
    monkeypatch.undo()

    def program(size):
        return str(
            jax.make_jaxpr(
                lambda x, w: conv_general_dilated(x, w, (1, 1), 'SAME', dimension_numbers=_LAYOUT)
            )(jnp.zeros((8, size, size, 64)), jnp.zeros((3, 3, 64, 64)))
        )

    assert 'conv_general_dilated[' in program(4)
    assert 'conv_general_dilated[' not in program(32)


@pytest.mark.parametrize(('said', 'size'), [('512K', 2**20), ('2048K', 2**21), ('?', 2**20), (None, 2**20)])
def test_chunks_suit_the_cache(monkeypatch, tmp_path, said, size):
    if said:
        (tmp_path / 'size').write_text(f'{said}\n')
    monkeypatch.setattr(chunks, '_SECOND_LEVEL_CACHE', tmp_path / 'size')
    assert chunks._chunk_bytes() == size
