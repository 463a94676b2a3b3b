"""Holds models and whole steps against what PyTorch computed (make_golden.py)."""

from importlib import import_module
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


def narrow_model(config, side, keys):
    """Returns the model of `config.model` with some keys changed, and the formula's weights for it."""
    config.update({'width': formula.WIDTH, 'convolution': 'xla', **keys})
    model = create_model(config, num_classes=formula.CLASSES)
    _, shapes = summary.abstract_outputs(model, (side, side, 3))
    names = to_torch(jax.tree.map(lambda x: np.empty(x.shape, np.float32), shapes))
    drawn = {name: formula.weight(name, array.shape) for name, array in names.items()}
    return model, from_torch(drawn, shapes)


def normalize(images):
    return (images - 0.5) / 0.5


@pytest.fixture(scope='module', params=list(formula.MODELS))
def one_step(request):
    """What `make_golden.one_step` returns, from PyTorch and from here."""
    name = request.param
    side, number, keys = formula.MODELS[name]
    model, variables = narrow_model(default.get_config().model, side, keys)
    images, labels = formula.batch(f'{name} {number}', side)

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

    outputs = compute(variables, normalize(to_float(images)))
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


def losses_of_steps(config, model, variables, side, rates):
    """Trains on the formula's batches without augmentation, and returns the loss of every step."""
    optimizer = create_optimizer(config.optimizer)
    params = variables['params']
    state = TrainState(jnp.int32(0), params, variables.get('batch_stats', {}), optimizer.init(params), None)
    step = jax.jit(
        create_train_step(
            config,
            model,
            optimizer,
            augment_batch=lambda batch, step: (normalize(to_float(batch['image'])), batch['label']),
        )
    )
    losses = []
    for index, rate in enumerate(rates):
        images, labels = formula.batch(f'step {index}', side)
        batch = {'image': images, 'label': labels, 'position': jnp.arange(formula.BATCH)}
        state, sums = step(state, batch, {'learning_rate': jnp.float32(rate)})
        losses.append(sums['loss'] / sums['count'])
    return np.array(losses)


def test_five_training_steps_have_torchs_losses():
    config = default.get_config()
    config.loss.label_smoothing = formula.LABEL_SMOOTHING
    config.optimizer.nesterov = True
    side, _, keys = formula.MODELS['resnet18']
    model, variables = narrow_model(config.model, side, keys)
    losses = losses_of_steps(config, model, variables, side, formula.STEP_RATES)
    np.testing.assert_allclose(losses, np.load(FOLDER / 'losses.npz')['resnet18'], rtol=1e-4)


@pytest.mark.parametrize('name', list(formula.RECIPES))
def test_recipes_follow_torchs_losses(name):
    config = import_module(f'configs.{name}').get_config()
    keys, side, rate = formula.RECIPES[name]
    model, variables = narrow_model(config.model, side, {**keys, 'dropout': 0.0})
    losses = losses_of_steps(config, model, variables, side, [rate] * formula.RECIPE_STEPS)
    golden = np.load(FOLDER / 'losses.npz')[name]
    np.testing.assert_allclose(losses[:5], golden[:5], rtol=1e-4)
    np.testing.assert_allclose(losses, golden, rtol=2e-2)
