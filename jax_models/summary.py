"""What a model is made of: modules, output shapes, parameters and the work of one image."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

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


class Module(NamedTuple):
    """A part of a model: name, output shape of one image, number of parameters."""

    name: str
    output: tuple[int, ...]
    parameters: int


def modules(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Module]:
    """Returns the parts that have parameters, in the order of their computation."""
    variables = abstract_variables(model, image_shape)
    params, outputs = variables['params'], {}

    def note(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if len(context.module.path) == 1 and context.method_name == '__call__':
            outputs[context.module.name] = output.shape[1:]
        return output

    with nn.intercept_methods(note):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, _one_image(image_shape))
    return [
        Module(name, shape, parameter_count(params[name]))
        for name, shape in outputs.items()
        if name in params
    ]


def table(model: nn.Module, parts: Sequence[Module]) -> Table:
    """Returns a rich table of a model's parts."""
    total = sum(part.parameters for part in parts)
    result = Table('module', 'output', title=type(model).__name__, title_justify='left', show_footer=True)
    result.add_column('parameters', justify='right', footer=f'{total:,}')
    for part in parts:
        result.add_row(part.name, ' x '.join(map(str, part.output)), f'{part.parameters:,}')
    return result


def abstract_variables(model: nn.Module, image_shape: tuple[int, int, int]) -> Mapping:
    """Returns the shapes of the model's variables, without computing any."""
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), _one_image(image_shape))


def _one_image(image_shape: tuple[int, int, int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
