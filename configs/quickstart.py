"""A small ResNet on the digits that scikit-learn ships: real data, nothing to download.

Command: make train, or python train.py --config=configs/quickstart.py

Measured on two CPU cores: 98.1 to 99.4 % test accuracy (seed 0 on jax 0.12; seeds 0, 1, 2 on jax 0.10),
under a minute of training, under two and a half minutes with the install.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.epochs = 15
    config.batch_size = 64

    config.dataset.name = 'digits'
    config.dataset.drop_last = True
    config.augmentation.crop_padding = 1

    config.model.width = 16
    config.model.zero_init_last_norm = True
    config.loss.label_smoothing = 0.1
    config.optimizer.learning_rate = 0.05
    config.optimizer.nesterov = True
    config.schedule.warmup_epochs = 1.0
    return config
