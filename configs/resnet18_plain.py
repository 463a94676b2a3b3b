"""A plain ResNet-18 on CIFAR-10: no augmentation, no normalisation, no clipping; 11,173,962 parameters.

Command: python train.py --config=configs/resnet18_plain.py

What configs/se_resnet_cifar10.py is compared with: the same optimizer, schedule and length. Test is
watched after every epoch, and chooses the best one. The original gives no figure of it; ours is still to be
measured on a GPU.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.epochs = 200
    config.batch_size = 128

    config.dataset.name = 'cifar10'
    config.dataset.validation = 0
    config.dataset.watch_test = True
    config.dataset.normalization = 'none'

    config.model.name = 'resnet18'

    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = 'cosine'
    config.schedule.interval = 'epoch'
    return config
