"""An SE-ResNet on CIFAR-10 with fewer than five million parameters: 4,697,742.

Command: python train.py --config=configs/se_resnet_cifar10.py

Three stages of 4, 4 and 3 basic blocks, squeeze and excitation after the stem. SGD with momentum, gradients
clipped by value, a cosine over 200 epochs stepped once per epoch; crops and flips. The test split is watched
after every epoch, and chooses the best one, as in the original: `--config.dataset.validation=5000
--config.dataset.watch_test=False` chooses on images held out from training instead.

The original reports 95 % test accuracy; ours is still to be measured on a GPU. On several GPUs it has batch
statistics per device: --config.batch_norm.sync=False.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.epochs = 200
    config.batch_size = 128

    config.dataset.name = 'cifar10'
    config.dataset.validation = 0
    config.dataset.watch_test = True
    config.augmentation.crop_padding = 4
    config.augmentation.flip = True

    config.model.name = 'resnet'
    config.model.stage_sizes = (4, 4, 3)
    config.model.width = 64
    config.model.se = 'stem'
    config.model.max_parameters = 5_000_000

    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.clip_value = 0.1
    config.schedule.name = 'cosine'
    config.schedule.interval = 'epoch'
    return config
