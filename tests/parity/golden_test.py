"""Holds models and whole steps against what PyTorch computed (make_golden.py)."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from jax_models import create_model, summary
from jax_models.torch_weights import from_torch, to_torch
from tests.parity import formula
from training.losses import cross_entropy
from training.optimizers import create_optimizer
from training.state import TrainState
from training.steps import create_train_step, to_float

FOLDER = Path(__file__).parent / 'golden'


def digests(collection, tree) -> dict[str, np.ndarray]:
    return {name: formula.digest(array) for name, array in to_torch({collection: tree}).items()}


def narrow_model(name):
    """Returns a model and the formula's weights for it."""
    side, keys = formula.MODELS[name]
    config = default.get_config().model
    config.update({'width': formula.WIDTH, 'convolution': 'xla', **keys})
    model = create_model(config, num_classes=formula.CLASSES)
    shapes = summary.abstract_variables(model, (side, side, 3))
    names = to_torch(jax.tree.map(lambda x: np.empty(x.shape, np.float32), shapes))
    drawn = {name: formula.weight(name, array.shape) for name, array in names.items()}
    return model, from_torch(drawn, shapes)


def normalize(images):
    return (images - 0.5) / 0.5


@pytest.fixture(scope='module', params=list(formula.MODELS))
def one_step(request):
    """What `make_golden.one_step` returns, from PyTorch and from here."""
    name = request.param
    model, variables = narrow_model(name)
    images, labels = formula.batch(name, formula.MODELS[name][0])

    def compute(variables, images):
        def loss(params):
            logits, updates = model.apply(
                {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
            )
            return cross_entropy(logits, labels).mean(), updates.get('batch_stats', {})

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
        gradients=digests('params', gradients),
        statistics=digests('batch_stats', statistics),
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
        images, labels = formula.batch(f'step {index}', formula.MODELS['resnet18'][0])
        batch = {'image': images, 'label': labels, 'position': jnp.arange(formula.BATCH)}
        state, sums = step(state, batch, {'learning_rate': jnp.float32(rate)})
        losses.append(sums['loss'] / sums['count'])
    np.testing.assert_allclose(losses, np.load(FOLDER / 'losses.npz')['resnet18'], rtol=1e-4)
