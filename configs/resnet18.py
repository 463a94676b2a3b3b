"""ResNet-18 on CIFAR-10 with a short modern recipe.

Command: python train.py --config=configs/resnet18.py

SGD with Nesterov momentum, label smoothing, five epochs of warm-up and a cosine to zero, crops and flips;
bfloat16 on a GPU. The rate is linear in the batch: 0.1 for each 128 images.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.precision = 'auto'

    config.dataset.name = 'cifar10'
    config.dataset.validation = 2500
    config.dataset.drop_last = True
    config.augmentation.crop_padding = 4
    config.augmentation.crop_mode = 'reflect'
    config.augmentation.flip = True

    config.loss.label_smoothing = 0.1
    config.optimizer.learning_rate = 0.4
    config.optimizer.nesterov = True
    config.optimizer.decay_norm_and_bias = False
    config.schedule.warmup_epochs = 5.0
    return config
