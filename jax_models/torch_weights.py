"""Variables of our models from PyTorch's state dicts, and back.

Names follow torchvision: `layer1_0/bn1/scale` here is `layer1.0.bn1.weight` there.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

_ENDINGS = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}
# What CIFAR ResNets of other projects call torchvision's `downsample` and `fc`.
_ALIASES = ((r'^(module\.|_orig_mod\.)+', ''), (r'\bshortcut\.(\d)', r'downsample.\1'), (r'^linear\.', 'fc.'))


def torch_name(path: tuple[str, ...]) -> str:
    """Returns layer1.0.downsample.1.weight for ('layer1_0', 'downsample_1', 'scale')."""
    *modules, last = path
    return '.'.join([module.replace('_', '.') for module in modules] + [_ENDINGS.get(last, last)])


def torch_axes(ndim: int) -> tuple[int, ...]:
    """Returns the axes that bring our kernels to PyTorch's order (HWIO to OIHW, IO to OI)."""
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


def to_torch(variables: Mapping[str, Any], *, names: str = 'torchvision') -> dict[str, np.ndarray]:
    """Returns a state dict of NumPy arrays for variables {'params', 'batch_stats'}.

    `model.load_state_dict({k: torch.from_numpy(v) for k, v in to_torch(variables).items()}, strict=False)`
    loads it; what is left out are BatchNorm2d's `num_batches_tracked`. `names` are torchvision's, or with
    'cifar' what many CIFAR ResNets have for these: `shortcut.0` for `downsample.0`, `linear` for `fc`.

    Raises ValueError for other `names`.
    """
    if names not in ('torchvision', 'cifar'):
        raise ValueError(f'names={names!r}: must be torchvision or cifar')
    state = {
        # Copies, to which PyTorch may write.
        torch_name(path[1:]): np.array(array.transpose(torch_axes(array.ndim)), order='C')
        for path, array in flatten_dict(jax.device_get(dict(variables))).items()
    }
    if names == 'torchvision':
        return state
    return {
        re.sub(r'^fc\.', 'linear.', name.replace('downsample.', 'shortcut.')): v for name, v in state.items()
    }


def as_numpy(value: Any) -> np.ndarray:
    """Returns arrays, and tensors of PyTorch on any device, as NumPy's; fractions of tensors as float32."""
    if hasattr(value, 'detach'):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value  # NumPy has no bfloat16
    return np.asarray(value)


def from_torch(state_dict: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns variables like the given ones with the values of a PyTorch state dict.

    Args:
      state_dict: name to array or tensor. Understood are torchvision's names, `shortcut.0` for
        `downsample.0`, `linear` for `fc`, and what DataParallel (`module.`) and torch.compile (`_orig_mod.`)
        put before each; `num_batches_tracked` is ignored.
      variables: {'params', 'batch_stats'} of arrays or shapes (jax.ShapeDtypeStruct).

    Raises:
      ValueError: names are missing or left over, or shapes differ; all are listed.
    """
    given = {_torchvision_name(name): as_numpy(value) for name, value in state_dict.items()}
    given = {name: value for name, value in given.items() if not name.endswith('num_batches_tracked')}
    converted, problems = {}, []
    for path, array in flatten_dict(dict(variables)).items():
        name, axes = torch_name(path[1:]), torch_axes(len(array.shape))
        shape = tuple(array.shape[axis] for axis in axes)
        value = given.pop(name, None)
        if value is None:
            problems.append(f'{name} {shape} is missing')
        elif value.shape != shape:
            problems.append(f'{name} is {value.shape}, not {shape}')
        else:
            converted[path] = value.transpose(np.argsort(axes)).astype(array.dtype)
    problems += [f'{name} {value.shape} is left over' for name, value in given.items()]
    if problems:
        raise ValueError('the weights do not fit the model: ' + '; '.join(problems))
    return unflatten_dict(converted)


def _torchvision_name(name: str) -> str:
    for pattern, replacement in _ALIASES:
        name = re.sub(pattern, replacement, name)
    return name
