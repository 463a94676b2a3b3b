"""ResNet-9 (jax_models/resnet9.py) on CIFAR-10, trained in 22 epochs: 4,211,786 parameters.

Command: python train.py --config=configs/fast_resnet9.py

For the 95 % of configs/se_resnet_cifar10.py below five million parameters in as little time as possible: a
network made for it, 327 million multiplications an image in place of 799, and Muon and all else of
configs/resnet18.py in place of 200 epochs of SGD. All 50,000 images are trained on, the last epoch counts,
and test is evaluated once, after it.
"""

from configs import resnet18


def get_config():
    config = resnet18.get_config()
    config.epochs = 22

    config.dataset.validation = 0

    config.model.name = 'resnet9'
    config.model.max_parameters = 5_000_000
    return config
