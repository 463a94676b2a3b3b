"""Holds models and whole steps against what PyTorch computed (make_golden.py)."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import default
from jax_models import create_model
from tests.parity import formula
from training.losses import cross_entropy
from training.optimizers import create_optimizer
from training.state import TrainState
from training.steps import create_train_step, to_float

FOLDER = Path(__file__).parent / 'golden'
ENDINGS = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}


def torch_name(path: tuple[str, ...]) -> str:
    """Returns layer1.0.downsample.1.weight for ('layer1_0', 'downsample_1', 'scale')."""
    *modules, last = path
    return '.'.join([module.replace('_', '.') for module in modules] + [ENDINGS.get(last, last)])


def torch_axes(ndim: int) -> tuple[int, ...]:
    """Returns the axes that bring our kernels to PyTorch's order (HWIO to OIHW, IO to OI)."""
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(ndim, (0,))


def drawn(path, shape) -> np.ndarray:
    """Returns the formula's values for one of our variables; `path` begins with the collection."""
    axes = torch_axes(len(shape.shape))
    values = formula.weight(torch_name(path[1:]), tuple(shape.shape[axis] for axis in axes))
    return jnp.asarray(values.transpose(np.argsort(axes)))


def digests(tree) -> dict[str, np.ndarray]:
    return {
        torch_name(path): formula.digest(np.asarray(array).transpose(torch_axes(array.ndim)))
        for path, array in flatten_dict(tree).items()
    }


def narrow_model(name):
    config = default.get_config().model
    config.name, (config.stem, side) = name, formula.MODELS[name]
    config.width, config.convolution = formula.WIDTH, 'xla'
    model = create_model(config, num_classes=formula.CLASSES)
    images = jnp.zeros((1, side, side, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return model, jax.tree.map_with_path(lambda path, x: drawn([key.key for key in path], x), shapes)


def normalize(images):
    return (images - 0.5) / 0.5


@pytest.fixture(scope='module', params=list(formula.MODELS))
def one_step(request):
    """What `make_golden.one_step` returns, from PyTorch and from here."""
    name = request.param
    model, variables = narrow_model(name)
    images, labels = formula.batch(name, formula.MODELS[name][1])

    def compute(variables, images):
        def loss(params):
            logits, updates = model.apply(
                {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
            )
            return cross_entropy(logits, labels).mean(), updates['batch_stats']

        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(variables['params'])
        features = model.apply(variables, images, train=False, method='features')
        logits = model.apply(variables, images, train=False)
        return features, logits, value, gradients, statistics

    outputs = jax.jit(compute)(variables, normalize(to_float(images)))
    features, logits, loss, gradients, statistics = outputs
    ours = SimpleNamespace(
        features=features,
        logits=logits,
        loss=loss,
        gradients=digests(gradients),
        statistics=digests(statistics),
    )
    return np.load(FOLDER / f'{name}.npz'), ours


def relative_error(ours, golden) -> float:
    return np.linalg.norm(ours - golden) / np.linalg.norm(golden)


def test_evaluation_gives_torchs_features_and_logits(one_step):
    golden, ours = one_step
    assert relative_error(ours.features, golden['features']) < 1e-5
    assert relative_error(ours.logits, golden['logits']) < 1e-5
    assert abs(ours.loss - golden['loss']) < 1e-5 * golden['loss']


@pytest.mark.parametrize('what', ['gradient', 'statistic'])
def test_every_gradient_and_statistic_of_a_training_pass_is_torchs(one_step, what):
    golden, ours = one_step
    ours, names = getattr(ours, f'{what}s'), golden[f'{what}_names']
    assert set(ours) == set(names)
    for name, expected in zip(names, golden[f'{what}s'], strict=True):
        assert expected[0] > 0, f'{name} gets no {what}'
        assert relative_error(ours[name], expected) < 1e-3, name


def test_five_training_steps_have_torchs_losses():
    config = default.get_config()
    config.loss.label_smoothing = formula.LABEL_SMOOTHING
    config.optimizer.nesterov = True
    model, variables = narrow_model('resnet18')
    optimizer = create_optimizer(config.optimizer)
    params = variables['params']
    state = TrainState(jnp.int32(0), params, variables['batch_stats'], optimizer.init(params), None)
    step = jax.jit(
        create_train_step(config, model, optimizer, augment=lambda images, keys: images, normalize=normalize)
    )
    losses = []
    for index, rate in enumerate(formula.STEP_RATES):
        images, labels = formula.batch(f'step {index}', formula.MODELS['resnet18'][1])
        batch = {'image': images, 'label': labels, 'position': jnp.arange(formula.BATCH)}
        state, sums = step(state, batch, {'learning_rate': jnp.float32(rate)})
        losses.append(sums['loss'] / sums['count'])
    np.testing.assert_allclose(losses, np.load(FOLDER / 'losses.npz')['resnet18'], rtol=1e-4)
