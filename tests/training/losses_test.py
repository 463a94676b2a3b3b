import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.losses import cross_entropy

LOGITS = jnp.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
LABELS = jnp.array([0, 2])


def test_cross_entropy_is_minus_the_log_probability_of_each_label():
    expected = -jax.nn.log_softmax(LOGITS)[jnp.arange(2), LABELS]
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), expected, rtol=1e-6)


@pytest.mark.parametrize('smoothing', [0.1, 0.5])
def test_smoothing_spreads_its_share_over_all_classes(smoothing):
    log_probabilities = jax.nn.log_softmax(LOGITS)
    true = -log_probabilities[jnp.arange(2), LABELS]
    expected = (1 - smoothing) * true + smoothing * -log_probabilities.mean(1)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, label_smoothing=smoothing), expected, rtol=1e-6)
