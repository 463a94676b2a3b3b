"""Writes tests/parity/golden/augment.npz: what torchvision makes of float images on a CPU.

Command: pip install torch==2.13.0 torchvision==0.28.0 numpy, then python tests/parity/make_golden_augment.py
"""

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import formula
import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torchvision.transforms import InterpolationMode, RandAugment, TrivialAugmentWide, v2
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

ADJUST = {
    'brightness': F.adjust_brightness,
    'contrast': F.adjust_contrast,
    'saturation': F.adjust_saturation,
    'hue': F.adjust_hue,
    'sharpness': F.adjust_sharpness,
}


def main():
    golden = {}
    for mode in InterpolationMode.NEAREST, InterpolationMode.BILINEAR:
        golden[f'rotate {mode.value}'] = each(
            'rotate',
            formula.ANGLES,
            lambda image, angle, mode=mode: F.rotate(image, angle, mode, fill=[formula.FILL] * 3),
        )
    height, width = formula.IMAGE_SHAPE[:2]
    start = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
    golden['perspective'] = each(
        'perspective',
        formula.CORNERS,
        lambda image, corners: F.perspective(image, start, corners, fill=[0.0] * 3),
    )
    golden['resized crop'] = each(
        'resized crop',
        formula.CROPS,
        lambda image, box: F.resized_crop(image, *box, (height, width), antialias=True),
    )
    for size, sigmas in formula.BLURS.items():
        name = f'blur {size}'
        golden[name] = each(name, sigmas, lambda image, sigma, size=size: F.gaussian_blur(image, size, sigma))
    for name, factors in formula.FACTORS.items():
        golden[name] = each(name, factors, ADJUST[name])
    golden['jitter'] = each('jitter', formula.JITTERS, jitter)
    golden['erase'] = each('erase', formula.BOXES, lambda image, box: F.erase(image, *box, v=torch.zeros(())))
    for name, magnitudes in formula.OPERATIONS.items():
        golden[name] = each(name, magnitudes, lambda image, m, name=name: operation(image, name, m))
    image = channels_first(formula.images('equalize', 1, formula.EQUALIZED_SHAPE))[0]
    golden['equalize'] = channels_last([operation(image, 'Equalize', 0.0)])
    spaces = {
        'randaugment': RandAugment()._augmentation_space(31, formula.IMAGE_SHAPE[:2]),
        'trivialaugment': TrivialAugmentWide()._augmentation_space(31),
    }
    for name, space in spaces.items():
        values = [space[operation][0].float().expand(31) for operation in formula.OPERATIONS]
        golden[f'{name} magnitudes'] = torch.stack(values).numpy()
        golden[f'{name} signed'] = np.array([space[operation][1] for operation in formula.OPERATIONS])
    golden |= mixed()
    logits = torch.from_numpy(formula.draw('logits', (formula.BATCH, formula.CLASSES)) * 3)
    targets = torch.from_numpy(formula.probabilities('targets', formula.BATCH))
    golden['soft cross entropy'] = cross_entropy(
        logits, targets, reduction='none', label_smoothing=formula.LABEL_SMOOTHING
    ).numpy()
    np.savez_compressed(Path(__file__).parent / 'golden' / 'augment.npz', **golden)


def channels_first(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def channels_last(images):
    return torch.stack(list(images)).permute(0, 2, 3, 1).contiguous().numpy()


def each(name, parameters, function):
    """Applies a function to the images called `name`, with one of `parameters` each."""
    images = channels_first(formula.images(name, len(parameters)))
    return channels_last(function(image, value) for image, value in zip(images, parameters, strict=True))


def jitter(image, parameters):
    factors, order = parameters
    for index in order:
        image = list(ADJUST.values())[index](image, factors[index])
    return image


def operation(image, name, magnitude):
    """Applies an operation of RandAugment; torchvision posterizes and equalizes only 8-bit images."""
    arguments = {'interpolation': InterpolationMode.NEAREST, 'fill': None}
    if name in ('Posterize', 'Equalize'):
        return _apply_op((image * 255).round().byte(), name, magnitude, **arguments).float() / 255
    return _apply_op(image, name, magnitude / 255 if name == 'Solarize' else magnitude, **arguments)


def mixed():
    """Returns two images and their targets, which MixUp and CutMix then mix with each other."""
    images = channels_first(formula.images('mix', 2))
    labels = torch.from_numpy(formula.probabilities('mix', 2))
    golden = {}

    def add(name, transform, parameters):
        parameters = {'labels': labels, 'batch_size': 2, **parameters}
        golden[name] = channels_last(transform.transform(images, parameters))
        golden[f'{name} targets'] = transform.transform(labels, parameters).numpy()

    add('mixup', v2.MixUp(num_classes=formula.CLASSES), {'lam': formula.MIXUP_SHARE})
    for index, (share, (row, column)) in enumerate(formula.CUTMIXES):
        cutmix = v2.CutMix(num_classes=formula.CLASSES)
        cutmix._dist = SimpleNamespace(sample=lambda _, share=share: torch.tensor(share))
        with mock.patch('torch.randint', side_effect=[torch.tensor([column]), torch.tensor([row])]):
            add(f'cutmix {index}', cutmix, cutmix.make_params([images]))
    return golden


if __name__ == '__main__':
    main()
