import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from jax_models import cpu_convolution
from jax_models.cpu_convolution import conv_general_dilated

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


@pytest.fixture(autouse=True)
def _small_problems_too(monkeypatch):
    monkeypatch.setattr(cpu_convolution, '_MIN_FLOPS', 0)
    monkeypatch.setattr(cpu_convolution, '_MIN_FLOPS_WINOGRAD', 0)
    monkeypatch.setattr(cpu_convolution, '_CHUNK_BYTES', 2**14)


def _values(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ('batch', 'height', 'width', 'channels', 'features', 'kernel', 'stride', 'padding'),
    [
        (6, 8, 8, 32, 48, 3, 1, 'SAME'),  # Winograd
        (7, 7, 12, 32, 32, 3, 1, [(1, 1), (1, 1)]),  # prime batch, tiles that do not fit
        (4, 4, 4, 16, 32, 3, 1, 'SAME'),  # XLA's forward pass, Winograd's backward pass
        (3, 8, 8, 16, 32, 3, 2, [(1, 1), (1, 1)]),
        (5, 9, 11, 16, 16, 3, 2, 'SAME'),
        (2, 9, 8, 16, 16, 2, 3, 'VALID'),  # pixels that no tap reaches
        (3, 15, 15, 3, 8, 7, 2, [(3, 3), (3, 3)]),
        (3, 8, 8, 3, 8, 3, 1, 'SAME'),
        (3, 8, 7, 16, 8, 1, 1, 'SAME'),
        (3, 9, 8, 16, 8, 1, 2, 'VALID'),
    ],
)
def test_values_and_gradients_are_those_of_exact_convolutions(
    batch, height, width, channels, features, kernel, stride, padding
):
    images = _values((batch, height, width, channels), 0)
    weights = _values((kernel, kernel, channels, features), 1)

    def evaluate(convolve, images, weights):
        def convolution(x, w):
            return convolve(x, w, (stride, stride), padding, dimension_numbers=_LAYOUT)

        output, pull = jax.vjp(jax.jit(convolution), images, weights)
        return output, *pull(jnp.asarray(_values(output.shape, 2), output.dtype))

    assert (
        'conv_general_dilated'
        not in str(jax.make_jaxpr(lambda x, w: evaluate(conv_general_dilated, x, w)[2])(images, weights))
        or min(channels, features) < 32
    )
    results = evaluate(conv_general_dilated, images, weights)
    with jax.enable_x64(True):
        exact = evaluate(lax.conv_general_dilated, images.astype(np.float64), weights.astype(np.float64))
    for result, expected in zip(results, exact, strict=True):
        assert np.abs(result - expected).max() < 5e-6 * np.abs(expected).max()
