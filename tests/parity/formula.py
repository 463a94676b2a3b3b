"""What both frameworks compute from: weights and batches drawn from names, so that no file holds them.

Names and layouts are torchvision's (`layer1.0.conv1.weight`, float32[out, in, height, width]).
"""

import math
import zlib

import numpy as np

# Model: stem and image side. At these sizes the last stage sees 2x2 pixels (over fewer values batch norm
# magnifies rounding), and no activation is so near a ReLU's kink that rounding decides its side: PyTorch's
# own gradients in float32 and float64 agree to 1e-4.
MODELS = {'resnet18': ('cifar', 16), 'resnet50': ('imagenet', 48)}
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
    return values / 5 if name.endswith(('bias', 'mean')) else (1 + values) / 2 + np.float32(0.1)


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


# Augmentation, on float images of this shape; each tuple holds one parameter per image.
IMAGE_SHAPE = (10, 14, 3)
ANGLES, FILL = (90.0, 17.3, -133.0, 180.0, 0.0), 0.3
FACTORS = {
    'brightness': (0.0, 0.6, 1.0, 1.7),
    'contrast': (0.0, 0.6, 1.0, 1.7),
    'saturation': (0.0, 0.6, 1.0, 1.7),
    'hue': (-0.5, -0.2, 0.0, 0.05, 0.4, 0.5),
    'sharpness': (0.0, 0.6, 1.0, 1.7),
}
# Brightness, contrast, saturation, hue: the factors, and the order of their application.
JITTERS = (
    ((1.3, 0.6, 1.5, 0.1), (0, 1, 2, 3)),
    ((0.7, 1.4, 0.5, -0.1), (3, 2, 1, 0)),
    ((1.1, 0.9, 1.2, 0.45), (2, 0, 3, 1)),
)
# Magnitudes by torchvision's name of the operation.
OPERATIONS = {
    'Identity': (0.0,),
    'ShearX': (-0.3, 0.17, 0.99),
    'ShearY': (-0.3, 0.17, 0.99),
    'TranslateX': (-3.8, 4.0, 32.0),
    'TranslateY': (-3.8, 4.0, 32.0),
    'Rotate': (-30.0, 12.0, 128.0),
    'Brightness': (-0.9, 0.45),
    'Color': (-0.9, 0.45),
    'Contrast': (-0.9, 0.45),
    'Sharpness': (-0.9, 0.45),
    'Posterize': (8.0, 6.0, 4.0, 2.0),
    'Solarize': (0.0, 100.5, 255.0),
    'AutoContrast': (0.0,),
    'Equalize': (0.0,),
}
EQUALIZED_SHAPE = (24, 22, 3)  # so many pixels that they are spread over more than one level
BOXES = ((0, 0, 3, 4), (6, 9, 4, 5), (2, 1, 1, 12))  # top, left, height, width
MIXUP_SHARE = 0.3
CUTMIXES = ((0.6, (4, 7)), (0.2, (0, 13)), (0.999, (5, 5)))  # share, and row and column of the centre


def images(name: str, count: int, shape: tuple[int, int, int] = IMAGE_SHAPE) -> np.ndarray:
    """Returns float32[count, *shape] in [0, 1], some of whose pixels are grey, black, white or pure colours.

    The last channel has little contrast below the fifth row.
    """
    values = np.floor((draw(name, (count, *shape)) + 1) * 128).astype(np.float32)
    values[:, 5:, :, 2] = np.floor(values[:, 5:, :, 2] / 8)
    values[:, 0] = values[:, 0, :, :1]
    values[:, 1, :8] = [[255 * (i >> 2), 255 * (i >> 1 & 1), 255 * (i & 1)] for i in range(8)]
    values[:, 2, :, 1] = values[:, 2, :, 0]
    return values / np.float32(255)


def probabilities(name: str, count: int) -> np.ndarray:
    """Returns float32[count, CLASSES], whose rows add up to 1."""
    values = draw(name, (count, CLASSES)) + 1
    return values / values.sum(1, keepdims=True)
