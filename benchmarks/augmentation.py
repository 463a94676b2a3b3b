"""What each augmentation adds to a training step: milliseconds, and per cent of the step without any.

Command: python benchmarks/augmentation.py [--model=resnet18] [--width=64] [--batch_size=512] …

The options are throughput.py's; images are random ones of 32x32 pixels. Printed are the least of the rounds,
which take the variants in turn, so that other load hits all alike.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.throughput import CLASSES, bare_steps, create, least_seconds, parse_arguments
from configs import default
from input_pipeline.augment import create_augmentation, create_mixing
from training.experiment import Experiment

VARIANTS = {
    'none': {},
    'crop and flip': {'crop_padding': 4, 'flip': True},
    'resized crop': {'crop_scale_min': 0.25},
    'rotation, nearest': {'rotation': 20.0},
    'rotation, bilinear': {'rotation': 20.0, 'rotation_interpolation': 'bilinear'},
    'colour jitter': {'brightness': 0.2, 'contrast': 0.3, 'saturation': 0.3, 'hue': 0.1},
    'perspective': {'perspective': 0.5},
    'blur': {'blur': 3},
    'cutout': {'cutout': 8},
    'erasing': {'erasing': 0.5},
    'randaugment': {'auto': 'randaugment'},
    'trivialaugment': {'auto': 'trivialaugment'},
    'mixup': {'mixup_alpha': 0.8},
    'mixup and cutmix': {'mixup_alpha': 0.8, 'cutmix_alpha': 1.0},
}


def main():
    arguments = parse_arguments()
    plain = create(arguments, epochs=1)
    runs = {name: bare_steps(augmented(plain, keys)) for name, keys in VARIANTS.items()}
    rounds = {name: partial(run, arguments.steps) for name, run in runs.items()}
    seconds = least_seconds(rounds, arguments.repeats)
    milliseconds = {name: 1000 * value / arguments.steps for name, value in seconds.items()}
    base = milliseconds['none']
    print(f'{"none":<20}{base:9.2f} ms')
    for name, value in list(milliseconds.items())[1:]:
        print(f'{name:<20}{value - base:+9.2f} ms {100 * (value / base - 1):+6.1f} %')


def augmented(experiment: Experiment, keys: dict) -> Experiment:
    """Returns the experiment with another augmentation."""
    config = default.get_config().augmentation
    config.update(keys)
    before, after = create_augmentation(config)
    functions = {'augment': before, 'augment_normalized': after, 'mix': create_mixing(config, CLASSES)}
    return replace(experiment, augment_batch=partial(experiment.augment_batch, **functions))


if __name__ == '__main__':
    main()
