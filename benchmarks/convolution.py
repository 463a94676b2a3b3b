"""Times each convolution of a CIFAR ResNet on this machine: this project's, XLA's and PyTorch's.

    python benchmarks/convolution.py [--width=64] [--batch=128] [--repeats=5]

Prints milliseconds for the forward pass and for both gradients, each the least of interleaved repeats, so
that other load hits all alike. oneDNN (config.model.convolution=onednn) takes part where XLA has it, PyTorch
(channels_last) where it is installed.
"""

import pathlib
import sys
from functools import partial

import jax
from absl import app, flags
from jax import lax

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.throughput import least_seconds
from input_pipeline import decoding
from jax_models import onednn
from jax_models.cpu_convolution import conv_general_dilated

_WIDTH = flags.DEFINE_integer('width', 64, 'Channels of the first stage.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 128, 'Images per step.', lower_bound=1)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'How often each function is timed.', lower_bound=1)


def _layers(width: int):
    """Yields (size, channels, features, kernel, stride) of each different convolution of a ResNet-18."""
    yield 32, 3, width, 3, 1
    for stage in range(4):
        size, features = 32 >> stage, width << stage
        if stage:
            yield 2 * size, features // 2, features, 3, 2
            yield 2 * size, features // 2, features, 1, 2
        yield size, features, features, 3, 1


def _jax_functions(convolve, options, batch, size, channels, features, kernel, stride):
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (batch, size, size, channels))
    weights = jax.random.normal(keys[1], (kernel, kernel, channels, features))
    gradient = jax.random.normal(keys[2], (batch, size // stride, size // stride, features))
    convolution = partial(
        convolve,
        window_strides=(stride, stride),
        padding=[(kernel // 2, kernel // 2)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    jit = partial(jax.jit, compiler_options=options)
    forward = jit(convolution)
    # The images' own gradient is not needed in the first layer.
    backward = jit(lambda x, w, g: jax.vjp(convolution, x, w)[1](g)[1 if channels == 3 else 0 :])
    return {
        'forward': lambda: jax.block_until_ready(forward(images, weights)),
        'backward': lambda: jax.block_until_ready(backward(images, weights, gradient)),
    }


def _torch_functions(batch, size, channels, features, kernel, stride):
    import torch

    torch.set_num_threads(decoding.core_count())
    draw = partial(torch.randn, dtype=torch.float32)
    images = draw(batch, channels, size, size).to(memory_format=torch.channels_last)
    weights = draw(features, channels, kernel, kernel).to(memory_format=torch.channels_last)
    gradient = draw(batch, features, size // stride, size // stride).to(memory_format=torch.channels_last)
    images.requires_grad_(channels != 3)
    weights.requires_grad_()
    wanted = [weights] if channels == 3 else [images, weights]
    output = torch.nn.functional.conv2d(images, weights, None, stride, kernel // 2)

    def forward():
        with torch.no_grad():
            torch.nn.functional.conv2d(images, weights, None, stride, kernel // 2)

    return {
        'forward': forward,
        'backward': lambda: torch.autograd.grad(output, wanted, gradient, retain_graph=True),
    }


def main(_):
    makers = {'ours': partial(_jax_functions, conv_general_dilated, None)}
    if onednn.is_available('float32'):
        convolve = partial(conv_general_dilated, by_onednn=True)
        makers['oneDNN'] = partial(_jax_functions, convolve, onednn.COMPILER_OPTIONS)
    makers['XLA'] = partial(_jax_functions, lax.conv_general_dilated, None)
    try:
        import torch  # noqa: F401

        makers['PyTorch'] = _torch_functions
    except ImportError:
        print('PyTorch is not installed here; its columns are left out.')
    columns = [f'{name} {way}' for way in ('forward', 'backward') for name in makers]
    print(f'{"milliseconds":<24}' + ''.join(f'{column:>18}' for column in columns))
    for size, channels, features, kernel, stride in _layers(_WIDTH.value):
        functions = {
            f'{name} {way}': function
            for name, make in makers.items()
            for way, function in make(_BATCH.value, size, channels, features, kernel, stride).items()
        }
        seconds = least_seconds(functions, _REPEATS.value)
        layer = f'{size}x{size} {channels}->{features} {kernel}x{kernel}/{stride}'
        print(f'{layer:<24}' + ''.join(f'{1e3 * seconds[column]:>18.1f}' for column in columns), flush=True)


if __name__ == '__main__':
    app.run(main)
