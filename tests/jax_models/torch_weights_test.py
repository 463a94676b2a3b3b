import jax
import numpy as np
import pytest

from configs import default
from jax_models import create_model, summary
from jax_models.torch_weights import from_torch, to_torch


@pytest.fixture(scope='module')
def variables():
    config = default.get_config().model
    config.update({'name': 'resnet', 'stage_sizes': (1, 1), 'se': 'stem', 'width': 8, 'convolution': 'xla'})
    _, shapes = summary.abstract_outputs(create_model(config, num_classes=5), (8, 8, 3))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), shapes)


def test_names_and_shapes_are_torchvisions(variables):
    shapes = {name: value.shape for name, value in to_torch(variables).items()}
    assert shapes['conv1.weight'] == (8, 3, 3, 3)
    assert shapes['layer2.0.downsample.0.weight'] == (16, 8, 1, 1)
    assert shapes['layer2.0.downsample.1.running_var'] == (16,)
    assert shapes['fc.weight'] == (5, 16)


def test_there_and_back_changes_nothing(variables):
    back = from_torch(to_torch(variables), variables)
    jax.tree.map(np.testing.assert_array_equal, back, dict(variables))


def test_names_of_other_cifar_projects_are_understood(variables):
    state = {f'module._orig_mod.{name}': v for name, v in to_torch(variables, names='cifar').items()}
    assert state['module._orig_mod.layer2.0.shortcut.0.weight'].shape == (16, 8, 1, 1)
    assert state['module._orig_mod.linear.bias'].shape == (5,)
    assert not any('downsample' in name or '.fc.w' in name for name in state)
    state['module._orig_mod.bn1.num_batches_tracked'] = np.array(3)
    jax.tree.map(np.testing.assert_array_equal, from_torch(state, variables), dict(variables))


def test_other_names_are_refused(variables):
    with pytest.raises(ValueError, match=r"names='keras': must be torchvision or cifar"):
        to_torch(variables, names='keras')


def test_what_does_not_fit_is_listed(variables):
    state = to_torch(variables)
    state['extra.weight'], state['fc.bias'] = state.pop('conv1.weight'), np.zeros(7)
    with pytest.raises(ValueError, match=r'conv1\.weight .* is missing') as error:
        from_torch(state, variables)
    assert 'fc.bias is (7,), not (5,)' in str(error.value)
    assert 'extra.weight (8, 3, 3, 3) is left over' in str(error.value)


def test_tensors_of_any_device_and_type_are_taken():
    class Tensor:
        """What PyTorch has of bfloat16 on a GPU, which NumPy cannot read."""

        def __init__(self, calls=()):
            self.calls = calls

        def __getattr__(self, name):
            if name not in ('detach', 'cpu', 'float'):
                raise AttributeError(name)
            return lambda: Tensor((*self.calls, name))

        def is_floating_point(self):
            return True

        def __array__(self, dtype=None, copy=None):
            assert self.calls == ('detach', 'cpu', 'float')
            return np.ones((2, 3), np.float32)

    converted = from_torch({'fc.weight': Tensor()}, {'params': {'fc': {'kernel': np.zeros((3, 2))}}})
    np.testing.assert_array_equal(converted['params']['fc']['kernel'], np.ones((3, 2)))
