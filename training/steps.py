"""One step of training and of evaluation: pure functions that know nothing of devices.

A batch is {'image': uint8[batch, height, width, channels], 'label': int32[batch], 'position':
int32[batch]}: the position in the global batch, which keys each image's augmentation. In evaluation it also
has 'valid', bool[batch], which is False for what fills up the last one.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from input_pipeline.augment import Augment, Mix
from training.loss_scale import all_finite, next_loss_scale
from training.losses import create_loss, cross_entropy
from training.optimizers import set_hyperparameters
from training.state import TrainState

Batch = dict[str, jax.Array]
SUMS = ('loss', 'correct', 'count')
# Streams of randomness within a step.
AUGMENTATION, DROPOUT, MIXING = 0, 1, 2


def create_train_step(
    config: ConfigDict,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    augment_batch: Callable[[Batch, jax.Array], tuple[jax.Array, jax.Array]],
    axis_name: str | None = None,
    unroll: bool = True,
) -> Callable[[TrainState, Batch, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `train_step(state, batch, hyperparameters) -> state, sums`.

    `hyperparameters` are those of `set_hyperparameters`. `sums` are float32[] over the global batch: `loss`
    and `correct` (added up), `count`. Of mixed targets the class with the largest share counts as the correct
    one.

    Where the state has a loss scale and gradients overflow, the step is skipped: it changes nothing but its
    number and the scale. Where the loss itself did, it counts in no sum. At a scale below 1 that is no longer
    borne: the loss is NaN.

    Args:
      config: reads seed, loss, loss_scale, ema, model.cosine_scale and optimizer.accumulation_steps.
      augment_batch: (batch, number of the step) -> what the model sees, its targets: int32[batch] or, of
        mixed images, float32[batch, classes].
      axis_name: mapped axis over which gradients and sums are averaged or added (pmap), None under jit.
      unroll: whether to write the parts of an accumulated batch out (a CPU runs loops on one thread).
    """
    gradients_of = _create_gradients(config, model, unroll=unroll)

    def train_step(state, batch, hyperparameters):
        dropout_key = _stream(config.seed, state.step, DROPOUT)
        if axis_name is not None:
            dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
        images, targets = augment_batch(batch, state.step)
        batch_stats, sums, gradients = gradients_of(state, images, targets, dropout_key)
        if axis_name is not None:
            gradients, batch_stats = jax.lax.pmean((gradients, batch_stats), axis_name)
            sums = jax.lax.psum(sums, axis_name)

        if state.loss_scale is not None:
            gradients = jax.tree.map(lambda g: g / state.loss_scale.value, gradients)
        opt_state = set_hyperparameters(state.opt_state, hyperparameters)
        updates, opt_state = optimizer.update(gradients, opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step, ema = state.step + 1, state.ema
        if ema is not None:
            # Young averages follow quickly, as in TensorFlow's.
            keep = jnp.minimum(config.ema.decay, step / (step + 9.0))
            ema = optax.incremental_update({'params': params, 'batch_stats': batch_stats}, ema, 1 - keep)
        new = TrainState(step, params, batch_stats, opt_state, ema, state.loss_scale)
        if state.loss_scale is None:
            return new, sums
        return _skip_overflow(state, new, sums, all_finite(gradients), config.loss_scale)

    return train_step


def _skip_overflow(old, new, sums, finite, config):
    kept = optax.tree.where(finite, new, old)
    kept = kept.replace(step=new.step, loss_scale=next_loss_scale(old.loss_scale, finite, config))
    sums = {name: jnp.where(jnp.isfinite(sums['loss']), value, 0) for name, value in sums.items()}
    bearable = finite | (old.loss_scale.value >= 1)
    return kept, {**sums, 'loss': jnp.where(bearable, sums['loss'], jnp.nan)}


def _create_gradients(config: ConfigDict, model: nn.Module, *, unroll: bool) -> Callable:
    """Returns `gradients_of(state, images, targets, dropout_key) -> batch_stats, sums, gradients`.

    The gradients are those of the loss times the state's loss scale, where it has one.
    """
    parts = config.optimizer.accumulation_steps
    loss = create_loss(config.loss, cosine_scale=config.model.cosine_scale)

    def loss_and_gradients(state, batch_stats, images, targets, dropout_key):
        def loss_fn(params):
            logits, updates = model.apply(
                {'params': params, 'batch_stats': batch_stats},
                images,
                train=True,
                mutable=['batch_stats'],
                rngs={'dropout': dropout_key},
            )
            losses = loss(logits.astype(jnp.float32), targets)
            labels = targets if targets.ndim == 1 else targets.argmax(-1)
            correct = (logits.argmax(-1) == labels).sum()
            sums = {'loss': losses.sum(), 'correct': correct, 'count': jnp.float32(labels.size)}
            mean = losses.mean()
            if state.loss_scale is not None:
                mean *= state.loss_scale.value
            return mean, (updates.get('batch_stats', {}), sums)

        (_, (batch_stats, sums)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return batch_stats, jax.tree.map(lambda x: x.astype(jnp.float32), sums), gradients

    def accumulate(state, images, targets, dropout_key):
        if parts == 1:
            return loss_and_gradients(state, state.batch_stats, images, targets, dropout_key)
        # Part i takes every parts-th image, so that each device keeps its own.
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), (images, targets))

        def body(carry, part):
            batch_stats, sums, gradients = carry
            images, targets, index = part
            key = jax.random.fold_in(dropout_key, index)
            batch_stats, *new = loss_and_gradients(state, batch_stats, images, targets, key)
            return (batch_stats, *jax.tree.map(jnp.add, (sums, gradients), tuple(new))), None

        zeros = dict.fromkeys(SUMS, jnp.zeros(()))
        carry = (state.batch_stats, zeros, jax.tree.map(jnp.zeros_like, state.params))
        (batch_stats, sums, gradients), _ = jax.lax.scan(
            body, carry, (*split, jnp.arange(parts)), unroll=unroll
        )
        return batch_stats, sums, jax.tree.map(lambda g: g / parts, gradients)

    return accumulate


def augment_batch(
    batch: Batch,
    step: jax.Array,
    *,
    seed: int,
    augment: Augment,
    normalize: Callable[[jax.Array], jax.Array],
    augment_normalized: Augment = lambda images, keys: images,
    mix: Mix | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the images that the model sees in a training step, and their targets, labels unless mixed.

    Args:
      augment: (float32 images in [0, 1], keys[batch]) -> images.
      normalize: float32 images in [0, 1] -> what the model sees.
      augment_normalized: as augment, on normalised images.
      mix: (normalised images, labels, key of the step) -> images, float32[batch, classes]; None: no mixing.
    """
    position_keys = jax.vmap(jax.random.fold_in, (None, 0))
    keys = position_keys(_stream(seed, step, AUGMENTATION), batch['position'])
    images = augment_normalized(normalize(augment(to_float(batch['image']), keys)), keys)
    if mix is None:
        return images, batch['label']
    return mix(images, batch['label'], _stream(seed, step, MIXING))


def create_predict_step(
    model: nn.Module, *, normalize: Callable[[jax.Array], jax.Array]
) -> Callable[[Any, Batch], jax.Array]:
    """Returns `predict_step(variables, batch) -> logits`, float32[batch, classes]."""

    def predict_step(variables, batch):
        logits = model.apply(variables, normalize(to_float(batch['image'])), train=False)
        return logits.astype(jnp.float32)  # a model of one's own may give others

    return predict_step


def create_feature_step(
    model: nn.Module, *, normalize: Callable[[jax.Array], jax.Array], flip: bool
) -> Callable[[Any, Batch], jax.Array]:
    """Returns `feature_step(variables, batch) -> features`, float32[batch, d]: what the model's head sees.

    With `flip` they are the means of the features of each image and of its mirror image.
    """

    def feature_step(variables, batch):
        images = normalize(to_float(batch['image']))
        views = [images, images[:, :, ::-1]] if flip else [images]
        features = [model.apply(variables, view, train=False, method='features') for view in views]
        return sum(view.astype(jnp.float32) for view in features) / len(views)

    return feature_step


def evaluation_sums(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Returns the sums of a padded batch, as train_step's; padding is where `valid` bool[batch] is false."""
    losses = cross_entropy(logits, batch['label'])
    correct = logits.argmax(-1) == batch['label']
    valid = batch['valid']
    return {
        'loss': jnp.where(valid, losses, 0).sum(),
        'correct': (correct & valid).sum().astype(jnp.float32),
        'count': valid.sum().astype(jnp.float32),
    }


def to_float(images: jax.Array) -> jax.Array:
    """Scales uint8 to float32 in [0, 1] (torchvision's ToTensor)."""
    return images.astype(jnp.float32) / 255


def _stream(seed: int, step: jax.Array, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), stream)
