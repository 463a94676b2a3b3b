import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from training.losses import arcface, cosface, create_loss, cross_entropy, focal

LOGITS = jnp.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
LABELS = jnp.array([0, 2])
SHARES = jnp.array([[0.7, 0.3, 0.0], [0.25, 0.25, 0.5]])


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
    np.testing.assert_array_equal(create_loss(config, cosine_scale=1.0)(LOGITS, LABELS), expected)
    config.name, config.focal_gamma = 'focal', 3.0
    expected = focal(LOGITS, LABELS, gamma=3.0, label_smoothing=0.1)
    np.testing.assert_array_equal(create_loss(config, cosine_scale=1.0)(LOGITS, LABELS), expected)
    config.name, config.margin = 'cosface', 0.2
    expected = cosface(LOGITS, LABELS, margin=0.2, scale=4.0, label_smoothing=0.1)
    np.testing.assert_array_equal(create_loss(config, cosine_scale=4.0)(LOGITS, LABELS), expected)


ANGLES = np.array([[0.3, 1.2, 2.0], [1.5, 0.4, 2.9], [0.7, 3.0, 2.2]])  # of each example to each class
TRUE = np.array([0, 2, 1])  # the last two would turn beyond pi


@pytest.mark.parametrize('loss', [arcface, cosface])
def test_margin_losses_are_the_authors(loss):
    cosines = np.cos(ANGLES)
    own = cosines[np.arange(3), TRUE]
    if loss is arcface:  # insightface, recognition/arcface_torch/losses.py
        turned = np.cos(np.arccos(own) + 0.5)
        own = np.where(own > np.cos(np.pi - 0.5), turned, own - np.sin(np.pi - 0.5) * 0.5)
    else:
        own = own - 0.5
    expected = cosines.copy()
    expected[np.arange(3), TRUE] = own
    ours = loss(jnp.array(64 * cosines, jnp.float32), TRUE, margin=0.5, scale=64.0, label_smoothing=0.1)
    np.testing.assert_allclose(ours, cross_entropy(64 * expected, TRUE, label_smoothing=0.1), rtol=1e-5)


@pytest.mark.parametrize('loss', [arcface, cosface])
def test_margin_losses_have_gradients_where_angles_are_0_and_pi(loss):
    cosines = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    gradient = jax.grad(lambda x: loss(8 * x, jnp.array([0, 0]), margin=0.5, scale=8.0).sum())(cosines)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[1]).min() > 1


@pytest.mark.parametrize('loss', [arcface, cosface])
def test_without_a_margin_they_are_the_cross_entropy(loss):
    logits = 8 * jnp.cos(jnp.array(ANGLES))
    expected = cross_entropy(logits, TRUE)
    np.testing.assert_allclose(loss(logits, TRUE, margin=0.0, scale=8.0), expected, rtol=1e-5)
