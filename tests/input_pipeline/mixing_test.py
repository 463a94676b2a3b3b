import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import beta, kstest

from input_pipeline.mixing import mix, random_mix

# Images of classes 0 and 1 in turn, black and white, so that an image's mean is its share of class 1.
LABELS = np.arange(16) % 2
IMAGES = np.broadcast_to(LABELS[:, None, None, None], (16, 8, 8, 1)).astype(np.float32)
TARGETS = np.eye(3, dtype=np.float32)[LABELS]


def mixed(count, **alphas):
    """Mixes the batch with `count` keys: float32[count, 16, 8, 8, 1], float32[count, 16, 3]."""
    alphas = {'mixup_alpha': 0.0, 'cutmix_alpha': 0.0, **alphas}
    keys = jax.random.split(jax.random.key(0), count)
    return jax.jit(jax.vmap(lambda key: random_mix(IMAGES, TARGETS, key, **alphas)))(keys)


@pytest.mark.parametrize('alpha', ['mixup_alpha', 'cutmix_alpha'])
def test_targets_are_mixed_as_the_images_are(alpha):
    images, targets = mixed(50, **{alpha: 1.0})
    np.testing.assert_allclose(images.mean((2, 3, 4)), targets[..., 1], atol=1e-6)
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
    shares = np.asarray(targets)[:, 0, 0]  # one a step
    np.testing.assert_allclose(targets[:, ::2, 0], np.repeat(shares[:, None], 8, 1), atol=1e-6)
    assert shares.std() > 0.1


@pytest.mark.parametrize('alpha', [0.4, 0.8, 5.0])
def test_shares_have_the_beta_distribution(alpha):
    shares = np.asarray(mixed(1000, mixup_alpha=alpha)[1])[:, 0, 0]
    assert kstest(shares, beta(alpha, alpha).cdf).pvalue > 0.01


def test_with_both_on_each_batch_gets_one_of_them():
    images, _ = mixed(200, mixup_alpha=1.0, cutmix_alpha=1.0)
    boxed = np.asarray((images == 0) | (images == 1)).all((1, 2, 3, 4))
    assert 70 < boxed.sum() < 130


def test_an_odd_last_image_stays_as_it_is():
    images, targets = mix(IMAGES[:3], TARGETS[:3], jnp.full((8, 8), 0.25))
    np.testing.assert_allclose(images[:, 0, 0, 0], [0.75, 0.25, 0])
    np.testing.assert_allclose(targets, [[0.25, 0.75, 0], [0.75, 0.25, 0], [1, 0, 0]])


def test_devices_mix_as_one_does():
    def step(images, targets):
        return random_mix(images, targets, jax.random.key(3), mixup_alpha=0.8, cutmix_alpha=1.0)

    devices = len(jax.devices())
    split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), (IMAGES, TARGETS))
    together = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.pmap(step)(*split))
    jax.tree.map(np.testing.assert_array_equal, together, jax.jit(step)(IMAGES, TARGETS))
