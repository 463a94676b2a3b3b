"""What a model is made of: modules, output shapes, parameters and the work of one image."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table


def parameter_count(params: Mapping) -> int:
    """Returns the number of entries in a tree of arrays or shapes."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


def flops(model: nn.Module, image_shape: tuple[int, int, int]) -> float:
    """Returns the floating-point operations of one image forward (a multiply-add counts as two).

    XLA's own count, of the program before optimisation; `model` must use XLA's convolutions.
    """
    variables, images = abstract_variables(model, image_shape), _one_image(image_shape)
    forward: Callable = lambda variables, images: model.apply(variables, images, train=False)  # noqa: E731
    return jax.jit(forward).lower(variables, images).cost_analysis()['flops']


def table(model: nn.Module, image_shape: tuple[int, int, int]) -> Table:
    """Returns a rich table of the modules: name, output shape of one image, number of parameters."""
    variables, images = abstract_variables(model, image_shape), _one_image(image_shape)
    outputs = {}

    def note(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if len(context.module.path) == 1 and context.method_name == '__call__':
            outputs[context.module.name] = output.shape[1:]
        return output

    with nn.intercept_methods(note):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    params = variables['params']
    result = Table('module', 'output', title=type(model).__name__, title_justify='left', show_footer=True)
    result.add_column('parameters', justify='right', footer=f'{parameter_count(params):,}')
    for name, shape in outputs.items():
        if name in params:
            result.add_row(name, ' x '.join(map(str, shape)), f'{parameter_count(params[name]):,}')
    return result


def abstract_variables(model: nn.Module, image_shape: tuple[int, int, int]) -> Mapping:
    """Returns the shapes of the model's variables, without computing any."""
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), _one_image(image_shape))


def _one_image(image_shape: tuple[int, int, int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
