"""What both frameworks compute from: weights and batches drawn from names, so that no file holds them.

Names and layouts are torchvision's (`layer1.0.conv1.weight`, float32[out, in, height, width]).
"""

import math
import zlib

import numpy as np

# Model: image side and the keys of config.model. At these sizes the last stage sees 2x2 pixels or more (over
# fewer values batch norm magnifies rounding), and no activation is so near a ReLU's kink that rounding
# decides its side: PyTorch's own gradients in float32 and float64 agree to 1e-4 (make_golden.py checks it).
MODELS = {
    'simple_cnn': (16, {'name': 'simple_cnn', 'hidden': 16}),
    'resnet10': (16, {'name': 'resnet10', 'shortcut_kernel_sizes': (1, 2, 3, 1)}),
    'resnet18': (16, {'name': 'resnet18'}),
    'resnet34': (32, {'name': 'resnet34', 'stem': 'cifar_pool', 'head_sizes': (16, 12)}),
    'resnet50': (48, {'name': 'resnet50', 'stem': 'imagenet'}),
    'resnet101': (48, {'name': 'resnet101', 'stem': 'imagenet'}),
    'resnet152': (48, {'name': 'resnet152', 'stem': 'imagenet'}),
    'se_stem': (16, {'name': 'resnet', 'stage_sizes': (4, 4, 3), 'se': 'stem', 'se_reduction': 2}),
    'se_blocks': (
        16,
        {
            'name': 'resnet',
            'stage_sizes': (1, 2),
            'kernel_sizes': (5, 3),
            'se': 'blocks',
            'se_reduction': 2,
        },
    ),
}
WIDTH, CLASSES, BATCH = 8, 10, 8

# Five steps of training.
STEP_RATES = (0.02, 0.05, 0.05, 0.04, 0.01)
LABEL_SMOOTHING = 0.1

# Fifty updates of these parameters with gradients that are `CURVATURE` times the parameter, and noise.
OPTIMIZER_SHAPES = {'weight': (6, 4), 'bias': (4,)}
OPTIMIZER_STEPS, OPTIMIZER_KEPT_EVERY, CURVATURE = 50, 10, 0.3
# Case: learning rate and the config keys that differ from the plain SGD.
OPTIMIZERS = {
    'plain': (0.1, {}),
    'momentum': (0.1, {'momentum': 0.9}),
    'nesterov': (0.1, {'momentum': 0.9, 'nesterov': True, 'weight_decay': 5e-3}),
    'clip_value': (0.1, {'momentum': 0.9, 'weight_decay': 5e-3, 'clip_value': 0.1}),
    'clip_norm': (0.1, {'momentum': 0.9, 'weight_decay': 5e-3, 'clip_norm': 0.5}),
}

# Case: intervals (epochs, or all steps), highest and final rate.
COSINES = {'epoch': (12, 0.1, 0.0), 'step': (28, 0.4, 0.003)}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32[shape], uniform in [-1, 1), given by the name alone."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return (2 * generator.random(shape) - 1).astype(np.float32)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an entry of a torchvision state dict: nothing at its default, activations not far from 1."""
    values = draw(name, shape)
    if len(shape) > 1:
        return values * np.float32(math.sqrt(6 / math.prod(shape[1:])))
    if name.endswith(('bias', 'mean')):
        return values / 5
    # Branches of bottlenecks add little, or rounding grows from block to block.
    return ((1 + values) / 2 + np.float32(0.1)) * np.float32(0.1 if name.endswith('bn3.weight') else 1)


def batch(name: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8[BATCH, side, side, 3] and int32[BATCH]."""
    images = (draw(f'{name} images', (BATCH, side, side, 3)) + 1) * 128
    labels = (draw(f'{name} labels', (BATCH,)) + 1) * (CLASSES / 2)
    return images.astype(np.uint8), labels.astype(np.int32)


def digest(array: np.ndarray) -> np.ndarray:
    """Returns the norm of an array (in torchvision's layout) and seven of its entries, float32[8]."""
    flat = np.asarray(array, np.float32).ravel()
    picked = flat[np.linspace(0, flat.size - 1, 7).astype(int)]
    return np.append(np.float32(np.linalg.norm(flat)), picked)
