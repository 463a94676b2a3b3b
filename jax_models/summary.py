"""What a model is made of: modules, output shapes, parameters and the work of one image."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from jax_models.layers import Linear


def parameter_count(params: Mapping) -> int:
    """Returns the number of entries in a tree of arrays or shapes."""
    return sum(x.size for x in jax.tree.leaves(params))


class ModuleInfo(NamedTuple):
    """A part of a model: name, output shape of one image, number of parameters, and the work of one image.

    `flops` are the floating-point operations of convolutions and linear layers, a multiply-add counting as
    two and taps on padding too, as is usual. Those of norms, activations and products of attention are left
    out, and of layers that `nn.scan` repeats one is counted.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    flops: int


def modules(model: nn.Module, image_shape: tuple[int, int, int]) -> list[ModuleInfo]:
    """Returns the parts that have parameters, in the order of their computation, and what is left of them."""
    logits, variables = abstract_outputs(model, image_shape)
    params, outputs, work = variables['params'], {}, Counter()

    def note(call, args, kwargs, context):
        output, module = call(*args, **kwargs), context.module
        if context.method_name == '__call__' and module.path:
            if isinstance(module, (nn.Conv, nn.ConvTranspose, nn.Dense, nn.DenseGeneral, Linear)):
                kernel = module.get_variable('params', 'kernel')
                # A transposed convolution uses its kernel at each pixel of the input, others of the output.
                uses = output.size // int(np.prod(module.features))
                if isinstance(module, nn.ConvTranspose):
                    uses = args[0][..., 0].size
                work[module.path[0]] += 2 * uses * kernel.size
            if len(module.path) == 1:
                outputs[module.name] = jax.tree.leaves(output)[0].shape[1:]
        return output

    with nn.intercept_methods(note):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, _one_image(image_shape))
    parts = [
        ModuleInfo(name, shape, parameter_count(params[name]), work[name])
        for name, shape in outputs.items()
        if name in params
    ]
    own = parameter_count({name: value for name, value in params.items() if name not in outputs})
    if own:
        parts.append(ModuleInfo('(its own)', logits.shape[1:], own, 0))
    return parts


def table(model: nn.Module, parts: Sequence[ModuleInfo]) -> Table:
    """Returns a rich table of a model's parts; operations are those of one image, forward."""
    result = Table('module', 'output', title=type(model).__name__, title_justify='left', show_footer=True)
    parameters, flops = sum(part.parameters for part in parts), sum(part.flops for part in parts)
    result.add_column('parameters', justify='right', footer=f'{parameters:,}')
    unit, name = (1e6, 'million') if flops >= 1e8 else (1e3, 'thousand')
    result.add_column(f'{name} operations', justify='right', footer=f'{flops / unit:,.1f}')
    for part in parts:
        shape = ' x '.join(map(str, part.output))
        result.add_row(part.name, shape, f'{part.parameters:,}', f'{part.flops / unit:,.1f}')
    return result


def abstract_outputs(
    model: nn.Module, image_shape: tuple[int, int, int]
) -> tuple[jax.ShapeDtypeStruct, Mapping]:
    """Returns the shapes of the logits of one image and of the model's variables, without computing any."""
    run = functools.partial(model.init_with_output, jax.random.key(0), train=False)
    return jax.eval_shape(run, _one_image(image_shape))


def _one_image(image_shape: tuple[int, int, int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
