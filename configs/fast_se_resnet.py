"""The SE-ResNet of configs/se_resnet_cifar10.py, trained in 35 epochs: 4,697,742 parameters.

Command: python train.py --config=configs/fast_se_resnet.py

For the 95 % of that recipe in as little time as possible: Muon, with the rate and the decay chosen for
configs/fast_resnet10.py, and a rate that falls to zero within 35 epochs instead of 200, label smoothing, no
decay on norms and biases, last norms of the blocks that begin at zero; bfloat16 on a GPU. All 50,000 images
are trained on, the last epoch counts, and test is evaluated once, after it.
"""

from configs import resnet18


def get_config():
    config = resnet18.get_config()
    config.epochs = 35

    config.dataset.validation = 0
    config.augmentation.cutout = 8

    config.model.name = 'resnet'
    config.model.stage_sizes = (4, 4, 3)
    config.model.se = 'stem'
    config.model.zero_init_last_norm = True
    config.model.max_parameters = 5_000_000

    config.optimizer.name = 'muon'
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 0.05
    config.schedule.warmup_epochs = 1.0
    config.checkpoint.every_epochs = 0  # each would be as long as some steps
    return config
