"""What both frameworks compute from: weights and batches drawn from names, so that no file holds them.

Names and layouts are torchvision's (`layer1.0.conv1.weight`, float32[out, in, height, width]).
"""

import math
import zlib

import numpy as np

# Model: image side, the number of its batch, and the keys of config.model. At these sizes the last stage sees
# 2x2 pixels or more: over fewer values batch norm magnifies rounding. Of 2,000 batches each is the one that
# keeps activations furthest from ReLU's kink, and what a max pool compares furthest from ties, where rounding
# decides: with weights wrong by 1e-6 PyTorch's gradients still agree to 1e-3 (make_golden.py checks it).
MODELS = {
    'simple_cnn': (16, 304, {'name': 'simple_cnn', 'hidden': 16}),
    'cnn5': (128, 648, {'name': 'cnn5'}),
    'resnet10': (16, 1651, {'name': 'resnet10', 'shortcut_kernel_sizes': (1, 2, 3, 1)}),
    'resnet18': (16, 1305, {'name': 'resnet18'}),
    'resnet18_imagenet': (48, 1827, {'name': 'resnet18', 'stem': 'imagenet'}),
    'resnet34': (32, 467, {'name': 'resnet34', 'stem': 'cifar_pool', 'head_sizes': (16, 12)}),
    'resnet50': (48, 918, {'name': 'resnet50', 'stem': 'imagenet'}),
    'se_stem': (16, 977, {'name': 'resnet', 'stage_sizes': (4, 4, 3), 'se': 'stem', 'se_reduction': 2}),
    'se_blocks': (
        16,
        1604,
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

# Config file: the keys of config.model that are changed for a narrow model, the image side, and a rate so
# small that PyTorch's own losses in float32, on one thread and on two, and in float64 agree (make_golden.py
# checks it).
RECIPES = {
    'simple_cnn_cifar100': ({'name': 'simple_cnn', 'hidden': 16}, 16, 0.01),
    'resnet34_cifar100': ({'name': 'resnet34', 'stem': 'cifar_pool', 'head_sizes': (16, 12)}, 32, 0.0002),
    'se_resnet_cifar10': (
        {'name': 'resnet', 'stage_sizes': (4, 4, 3), 'se': 'stem', 'se_reduction': 2},
        16,
        0.001,
    ),
    'resnet10_cifar10': ({'name': 'resnet10'}, 16, 0.001),
    'resnet18_faces_original': ({'name': 'resnet18', 'stem': 'imagenet'}, 64, 0.0005),
}
RECIPE_STEPS = 20

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
    'adam': (0.01, {'name': 'adam'}),
    'adam_l2': (0.05, {'name': 'adam', 'weight_decay': 0.05, 'beta1': 0.8, 'beta2': 0.99, 'epsilon': 1e-3}),
    'adamw': (0.05, {'name': 'adamw', 'weight_decay': 0.1}),
    'rmsprop': (0.01, {'name': 'rmsprop'}),
    'rmsprop_momentum': (
        0.01,
        {'name': 'rmsprop', 'momentum': 0.9, 'weight_decay': 0.05, 'rmsprop_decay': 0.9, 'epsilon': 1e-3},
    ),
    'cycled': (0.1, {'momentum': 0.95}),
    'adam_cycled': (0.01, {'name': 'adam', 'beta1': 0.95}),
    'rmsprop_cycled': (0.01, {'name': 'rmsprop', 'momentum': 0.95}),
}

# Case: highest rate and the config keys, of as many scheduler steps: epochs of one step, or steps of which an
# epoch has STEPS_PER_EPOCH.
SCHEDULE_LENGTH, STEPS_PER_EPOCH = 250, 5
_RESTARTS = {'name': 'cosine_restarts'}
SCHEDULES = {
    'constant': (0.1, {'name': 'constant'}),
    'step': (0.1, {'name': 'step', 'step_size': 30, 'gamma': 0.1}),
    'step_7': (0.4, {'name': 'step', 'step_size': 7, 'gamma': 0.9}),
    'step_by_step': (0.1, {'name': 'step', 'step_size': 3, 'gamma': 0.5, 'interval': 'step'}),
    'multistep': (0.1, {'name': 'multistep', 'milestones': (60, 120, 160), 'gamma': 0.2}),
    'multistep_by_step': (
        0.1,
        {'name': 'multistep', 'milestones': (1, 20, 45), 'gamma': 0.1, 'interval': 'step'},
    ),
    'exponential': (0.1, {'name': 'exponential', 'gamma': 0.95}),
    'exponential_by_step': (0.1, {'name': 'exponential', 'gamma': 0.9, 'interval': 'step'}),
    'cosine': (0.1, {'name': 'cosine', 't_max': SCHEDULE_LENGTH}),
    'cosine_195': (0.01, {'name': 'cosine', 't_max': 195}),
    'cosine_20': (0.1, {'name': 'cosine', 't_max': 20, 'final_learning_rate': 0.003}),
    'cosine_1': (0.1, {'name': 'cosine', 't_max': 1}),
    'cosine_by_step': (0.4, {'name': 'cosine', 't_max': 13, 'interval': 'step'}),
    'restarts': (0.1, {**_RESTARTS, 't_0': 10, 'final_learning_rate': 0.001}),
    'restarts_1': (0.1, {**_RESTARTS, 't_0': 1}),
    'restarts_longer': (0.1, {**_RESTARTS, 't_0': 8, 't_mult': 2}),
    'restarts_by_step': (0.1, {**_RESTARTS, 't_0': 3, 't_mult': 3, 'interval': 'step'}),
    'onecycle': (0.1, {'name': 'onecycle', 'total_steps': SCHEDULE_LENGTH}),
    'onecycle_long': (0.01, {'name': 'onecycle', 'total_steps': 1_500_000}),
    'onecycle_linear': (
        0.2,
        {
            'name': 'onecycle',
            'total_steps': SCHEDULE_LENGTH,
            'anneal_strategy': 'linear',
            'pct_start': 0.45,
            'div_factor': 10.0,
            'final_div_factor': 100.0,
            'base_momentum': 0.8,
            'max_momentum': 0.9,
            'interval': 'step',
        },
    ),
    'onecycle_early': (0.1, {'name': 'onecycle', 'total_steps': SCHEDULE_LENGTH, 'pct_start': 0.001}),
}

# Case: highest rate, the epochs' metrics, and the config keys without `plateau_`.
PLATEAUS = {
    'defaults': (0.1, 'falling', {}),
    'faces': (0.01, 'falling', {'factor': 0.5, 'patience': 5, 'threshold': 0.1}),
    'impatient': (0.1, 'falling', {'factor': 0.9, 'patience': 0, 'threshold': 0.0}),
    'equal': (0.1, 'equal', {'factor': 0.5, 'patience': 3, 'threshold': 0.0}),
    'rounded': (0.1, 'rounded', {'factor': 0.8, 'patience': 2, 'threshold': 0.0, 'threshold_mode': 'abs'}),
    'absolute': (0.1, 'falling', {'factor': 0.7, 'patience': 4, 'threshold': 0.02, 'threshold_mode': 'abs'}),
    'cooldown': (0.1, 'falling', {'factor': 0.8, 'patience': 2, 'cooldown': 4}),
    'cooldown_0': (0.1, 'equal', {'factor': 0.9, 'patience': 0, 'cooldown': 1}),
    'lowest': (0.1, 'falling', {'factor': 0.3, 'patience': 1, 'min_lr': 0.004}),
    'too_small': (1e-6, 'equal', {'factor': 0.5, 'patience': 1}),
    'eps': (0.1, 'falling', {'factor': 0.5, 'patience': 1, 'eps': 0.01}),
    'max': (0.1, 'rising', {'mode': 'max', 'factor': 0.6, 'patience': 3}),
    'max_absolute': (
        0.1,
        'rising',
        {'mode': 'max', 'factor': 0.6, 'patience': 2, 'threshold': 0.01, 'threshold_mode': 'abs'},
    ),
    'max_cooldown': (0.1, 'rising', {'mode': 'max', 'factor': 0.9, 'patience': 0, 'cooldown': 3}),
    'negative': (0.1, 'negative', {'factor': 0.9, 'patience': 0, 'threshold': 0.005}),
    'max_negative': (
        0.1,
        'negative',
        {'mode': 'max', 'factor': 0.9, 'patience': 2, 'threshold': 0.05, 'cooldown': 2},
    ),
    'worsening': (0.1, 'rising', {'factor': 0.5, 'patience': 10, 'min_lr': 1e-4}),
}


def cycled_momentum(step: int) -> float:
    """Returns the momentum, or beta1, of an update of the cases `…cycled`."""
    return 0.95 - 0.1 * step / OPTIMIZER_STEPS


def metrics(kind: str) -> np.ndarray:
    """Returns a metric after each epoch, float64[SCHEDULE_LENGTH]."""
    falling = 1 / (1 + np.arange(SCHEDULE_LENGTH) / 20) + draw(kind, (SCHEDULE_LENGTH,)) / 20.0
    return {
        'falling': falling,
        'equal': np.full(SCHEDULE_LENGTH, 0.5),
        'rounded': np.round(falling, 1),
        'rising': 1 - falling,
        'negative': falling - 2,
    }[kind]


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


# Augmentation, on float images of this shape; each tuple holds one parameter per image.
IMAGE_SHAPE = (10, 14, 3)
ANGLES, FILL = (90.0, 17.3, -133.0, 180.0, 0.0), 0.3
# x and y to which the corners go, clockwise from the upper left.
CORNERS = (
    ((0, 0), (13, 0), (13, 9), (0, 9)),
    ((3, 2), (10, 0), (11, 8), (1, 9)),
    ((0, 1), (13, 2), (10, 7), (3, 9)),
    ((2, 0), (12, 1), (12, 9), (0, 7)),
)
CROPS = ((0, 0, 10, 14), (2, 3, 5, 7), (4, 0, 1, 9), (1, 5, 9, 9))  # top, left, height, width
BLURS = {3: (0.1, 0.7, 2.0), 5: (0.5, 3.0)}  # sigmas by the size of the kernel
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
