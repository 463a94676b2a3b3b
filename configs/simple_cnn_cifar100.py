"""A simple CNN on CIFAR-100: three convolutions, 643,492 parameters.

Command: python train.py --config=configs/simple_cnn_cifar100.py

SGD with momentum and a cosine over five epochs stepped once per epoch, no augmentation, inputs in [-1, 1]; a
fifth of the training images is held out, and chooses the best epoch.

Measured (seed 0, two CPU cores, 3.4 minutes): 31.6 % on test; on validation 7.92, 14.02, 23.32, 27.92 and
31.58 % after the five epochs. The same recipe in PyTorch: 7.95, 17.31, 21.59, 28.96 and 31.50 %
(benchmarks/recipes.py). The original reports none of this part alone.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.epochs = 5
    config.batch_size = 512

    config.dataset.name = 'cifar100'
    config.dataset.validation = 0.2
    config.dataset.normalization = 'half'

    config.model.name = 'simple_cnn'
    config.model.width = 32

    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = 'cosine'
    config.schedule.interval = 'epoch'
    return config
