import flax.linen as nn
import jax.numpy as jnp

from configs import default
from jax_models import create_model, summary


def resnet18():
    config = default.get_config().model
    config.convolution = 'xla'
    return create_model(config, num_classes=10)


def test_table_lists_modules_with_their_shapes_and_the_total():
    model = resnet18()
    table = summary.table(model, summary.modules(model, (32, 32, 3)))
    names, outputs, parameters, _ = (list(column.cells) for column in table.columns)
    assert (names[0], outputs[0], parameters[0]) == ('conv1', '32 x 32 x 64', '1,728')
    assert (names[-1], outputs[-1], parameters[-1]) == ('fc', '10', '5,130')
    assert table.columns[2].footer == '11,173,962'
    assert sum(int(count.replace(',', '')) for count in parameters) == 11_173_962


def test_operations_are_those_that_papers_count():
    parts = summary.modules(resnet18(), (32, 32, 3))
    assert sum(part.flops for part in parts) == 1_110_845_440  # twice 555 million multiply-adds
    assert parts[0].flops == 2 * 32 * 32 * 64 * 27
    assert parts[-1].flops == 2 * 5120


class Own(nn.Module):
    """A layer with two outputs, and parameters of its own."""

    class Pair(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(x), x

    @nn.compact
    def __call__(self, images, *, train):
        x, _ = self.Pair(name='pair')(images.reshape(len(images), -1))
        return x * self.param('scale', lambda _: jnp.ones(4))


def test_layers_of_other_shapes_are_counted():
    class Layers(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            x = nn.ConvTranspose(4, (3, 3), strides=(2, 2), name='up')(images)  # at 2 x 2 pixels
            return nn.DenseGeneral((2, 5), axis=(-2, -1), name='heads')(x)  # at 4 rows, of 4 x 4 values

    flops = {part.name: part.flops for part in summary.modules(Layers(), (2, 2, 3))}
    assert flops == {'up': 2 * 4 * 9 * 3 * 4, 'heads': 2 * 4 * 16 * 10}


def test_a_model_of_ones_own_is_counted_whole():
    parts = summary.modules(Own(), (2, 2, 3))
    assert [tuple(part) for part in parts] == [('pair', (4,), 52, 96), ('(its own)', (4,), 4, 0)]
