import functools

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from jax_models import chunks, cpu_convolution
from jax_models.onednn import COMPILER_OPTIONS, convolve, is_available

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
conv_general_dilated = functools.partial(
    cpu_convolution.conv_general_dilated, dimension_numbers=_LAYOUT, by_onednn=True
)


def _compiled(function, *arrays):
    return jax.jit(function).lower(*arrays).compile(COMPILER_OPTIONS if is_available('bfloat16') else None)


def _both_ways(strides, pads, *arrays):
    """Returns a compiled function of images, kernel and the output's gradient to output and gradients."""

    def run(images, kernel, gradient):
        output, pull = jax.vjp(lambda *arrays: convolve(strides, pads, *arrays), images, kernel)
        return output, *pull(gradient)

    return _compiled(run, *arrays)


def _values(seed, *shape, dtype=jnp.bfloat16):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


# Rounding to 8 bits is off by 2^-9 / sqrt(3) of a value on average, by .0017 over a binade.
@pytest.mark.parametrize(('dtype', 'error'), [(jnp.bfloat16, 2.5e-3), (jnp.float32, 1e-6)])
@pytest.mark.parametrize(
    ('height', 'width', 'channels', 'kernel', 'strides', 'pads'),
    [
        (8, 8, 16, (3, 3), (1, 1), ((1, 1), (1, 1))),
        (8, 8, 16, (2, 3), (1, 1), ((1, 0), (1, 1))),
        (9, 7, 8, (3, 3), (2, 2), ((1, 1), (1, 1))),
        (9, 7, 8, (3, 2), (2, 1), ((1, 1), (1, 1))),
        (15, 15, 3, (7, 7), (2, 2), ((3, 3), (3, 3))),
        (7, 9, 8, (5, 5), (1, 1), ((1, 4), (0, 2))),
        (9, 8, 8, (2, 2), (3, 3), ((0, 0), (0, 0))),  # pixels that no tap reaches
        (7, 9, 8, (2, 2), (1, 1), ((3, 0), (2, 1))),  # more padding than the kernel is wide
    ],
)
def test_values_and_gradients_are_rounded_once(
    monkeypatch, dtype, error, height, width, channels, kernel, strides, pads
):
    monkeypatch.setattr(chunks, '_CHUNK_BYTES', 2**13)  # some with two chunks, the last one filled up
    images = _values(0, 7, height, width, channels, dtype=dtype)
    weights = _values(1, *kernel, channels, 12, dtype=dtype)
    shape = jax.eval_shape(lambda *arrays: convolve(strides, pads, *arrays), images, weights).shape
    arrays = images, weights, _values(2, *shape, dtype=dtype)
    results = _both_ways(strides, pads, *arrays)(*arrays)

    with jax.enable_x64(True):
        images, weights, gradient = (np.asarray(array, np.float64) for array in arrays)
        output, pull = jax.vjp(
            lambda *arrays: lax.conv_general_dilated(*arrays, strides, pads, dimension_numbers=_LAYOUT),
            images,
            weights,
        )
        exact = map(np.asarray, (output, *pull(gradient)))
    for result, expected in zip(results, exact, strict=True):
        assert result.dtype == dtype
        difference = np.asarray(result, np.float32) - expected
        assert np.linalg.norm(difference) < error * np.linalg.norm(expected)


def test_sums_over_many_chunks_stay_in_float32(monkeypatch):
    monkeypatch.setattr(chunks, '_CHUNK_BYTES', 1)  # an image each
    gradient = jnp.ones((9, 16, 32, 128), jnp.bfloat16)  # large enough for oneDNN
    images = gradient.at[1:].set(0).at[1:, 0, :2].set(1)
    arrays = images, jnp.ones((1, 1, 128, 128), jnp.bfloat16), gradient
    *_, kernel_gradient = _both_ways((1, 1), ((0, 0), (0, 0)), *arrays)(*arrays)
    # 512 of the first image, and two of each other one, which bfloat16 would lose beside it.
    np.testing.assert_array_equal(np.asarray(kernel_gradient, np.float32), 512 + 2 * 8)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_all_convolutions_and_products_are_onednns(dtype, stride):
    if not is_available(dtype):
        pytest.skip(f'XLA has no oneDNN in {dtype} here')
    shapes = (8, 16, 16, 64), (3, 3, 64, 64), (8, 16 // stride, 16 // stride, 64)
    arrays = [_values(seed, *shape, dtype=dtype) for seed, shape in enumerate(shapes)]
    program = _both_ways((stride, stride), ((1, 1), (1, 1)), *arrays).as_text()
    assert program.count('custom_call_target="__onednn$convolution"') == 2
    assert program.count('custom_call_target="__onednn$matmul"') == 1
    assert ' convolution(' not in program
    assert 'lhs_dilate' not in program
    assert ' dot(' not in program


@pytest.mark.parametrize(
    ('dtype', 'channels', 'here'), [('bfloat16', 128, True), ('float32', 64, True), ('float32', 128, False)]
)
def test_large_convolutions_come_here_but_winograds(dtype, channels, here):
    shapes = (8, 16, 16, channels), (3, 3, channels, channels)
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    program = str(jax.make_jaxpr(lambda *arrays: conv_general_dilated(*arrays, (1, 1), 'SAME'))(*arrays))
    assert 'name=convolve' in program  # winograd.convolve too
    assert ('conv_general_dilated[' in program) == here


@pytest.mark.parametrize(
    ('dtype', 'size', 'taps', 'here'),
    [('bfloat16', 2, 3, False), ('float32', 4, 5, False), ('bfloat16', 3, 3, True)],
)
def test_images_with_fewer_pixels_than_taps_become_products(dtype, size, taps, here):
    shapes = (128, size, size, 64), (taps, taps, 64, 64)
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    program = str(jax.make_jaxpr(lambda *arrays: conv_general_dilated(*arrays, (1, 1), 'SAME'))(*arrays))
    assert ('conv_general_dilated[' in program) == here


@pytest.mark.parametrize('batch', [2, 64])  # small, and large enough for this module
@pytest.mark.parametrize(('dtype', 'error'), [(jnp.bfloat16, 5e-3), (jnp.float32, 1e-6)])
def test_high_and_narrow_outputs_are_right(batch, dtype, error):
    arrays = _values(0, batch, 32, 2, 64, dtype=dtype), _values(1, 3, 3, 64, 64, dtype=dtype)
    places = (2, 2), ((1, 1), (1, 1))
    exact = (array.astype(jnp.float32) for array in arrays)
    expected = lax.conv_general_dilated(*exact, *places, dimension_numbers=_LAYOUT)
    result = _compiled(lambda *arrays: conv_general_dilated(*arrays, *places), *arrays)(*arrays)
    assert np.linalg.norm(np.asarray(result, np.float32) - expected) < error * np.linalg.norm(expected)


def test_gradients_of_1x1_kernels_are_rounded_once(monkeypatch):
    monkeypatch.setattr(cpu_convolution, '_MIN_FLOPS', 0)
    arrays = _values(0, 4, 8, 8, 16), _values(1, 1, 1, 16, 32), _values(2, 4, 4, 4, 32)

    def gradients(convolve, images, kernel, gradient):
        return jax.vjp(lambda *arrays: convolve(*arrays, (2, 2), 'VALID'), images, kernel)[1](gradient)

    results = _compiled(functools.partial(gradients, conv_general_dilated), *arrays)(*arrays)
    exact = functools.partial(lax.conv_general_dilated, dimension_numbers=_LAYOUT)
    expected = gradients(exact, *(array.astype(jnp.float32) for array in arrays))
    for result, true in zip(results, expected, strict=True):
        assert np.linalg.norm(np.asarray(result, np.float32) - true) < 2.5e-3 * np.linalg.norm(true)


@pytest.mark.parametrize('kernel', [1, 3])
def test_what_is_added_to_gradients_is_not_rounded(kernel):
    images, weights = _values(0, 16, 16, 16, 64), _values(1, kernel, kernel, 64, 64).astype(jnp.float32)
    momentum = jax.random.normal(jax.random.key(2), weights.shape)

    def accumulate(images, weights, momentum):
        def loss(weights):
            kernel = weights.astype(jnp.bfloat16)
            return conv_general_dilated(images, kernel, (1, 1), 'SAME').sum()

        return momentum + jax.grad(loss)(weights)

    arrays = images, weights, momentum
    total = _compiled(accumulate, *arrays)(*arrays)
    # Of a sum rounded to bfloat16 the lower half of the bits is zero.
    assert np.mean(np.asarray(total).view(np.uint32) & 0xFFFF == 0) < 0.1
