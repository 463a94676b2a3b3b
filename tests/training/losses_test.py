import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from training.losses import create_loss, cross_entropy, focal

LOGITS = jnp.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
LABELS = jnp.array([0, 2])
SHARES = jnp.array([[0.7, 0.3, 0.0], [0.25, 0.25, 0.5]])


def test_cross_entropy_is_minus_the_log_probability_of_each_label():
    expected = -jax.nn.log_softmax(LOGITS)[jnp.arange(2), LABELS]
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), expected, rtol=1e-6)


@pytest.mark.parametrize('smoothing', [0.1, 0.5])
def test_smoothing_spreads_its_share_over_all_classes(smoothing):
    log_probabilities = jax.nn.log_softmax(LOGITS)
    true = -log_probabilities[jnp.arange(2), LABELS]
    expected = (1 - smoothing) * true + smoothing * -log_probabilities.mean(1)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, label_smoothing=smoothing), expected, rtol=1e-6)


def test_probabilities_weigh_the_classes():
    expected = sum(SHARES[:, i] * cross_entropy(LOGITS, jnp.full(2, i)) for i in range(3))
    np.testing.assert_allclose(cross_entropy(LOGITS, SHARES), expected, rtol=1e-6)


@pytest.mark.parametrize('gamma', [0.5, 1.0, 2.0])
def test_focal_loss_counts_less_what_is_right_already(gamma):
    p = jax.nn.softmax(LOGITS)[jnp.arange(2), LABELS]
    expected = -((1 - p) ** gamma) * jnp.log(p)
    np.testing.assert_allclose(focal(LOGITS, LABELS, gamma=gamma), expected, rtol=1e-5)
    by_class = sum(SHARES[:, i] * focal(LOGITS, jnp.full(2, i), gamma=gamma) for i in range(3))
    np.testing.assert_allclose(focal(LOGITS, SHARES, gamma=gamma), by_class, rtol=1e-5)


@pytest.mark.parametrize('targets', [LABELS, SHARES])
def test_focal_loss_with_gamma_0_is_the_cross_entropy(targets):
    expected = cross_entropy(LOGITS, targets, label_smoothing=0.1)
    np.testing.assert_allclose(focal(LOGITS, targets, gamma=0.0, label_smoothing=0.1), expected, rtol=1e-6)


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_focal_loss_of_certain_logits_has_a_gradient(gamma):
    gradient = jax.grad(lambda logits: focal(logits, LABELS, gamma=gamma).sum())(LOGITS * 200)
    assert np.isfinite(gradient).all()


def test_config_chooses_the_loss():
    config = default.get_config().loss
    config.label_smoothing = 0.1
    expected = cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    np.testing.assert_array_equal(create_loss(config)(LOGITS, LABELS), expected)
    config.name, config.focal_gamma = 'focal', 3.0
    expected = focal(LOGITS, LABELS, gamma=3.0, label_smoothing=0.1)
    np.testing.assert_array_equal(create_loss(config)(LOGITS, LABELS), expected)
