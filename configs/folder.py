"""ResNet-18 on a folder of your own images, of any size: DIR/train/<class>/*.jpg, or DIR/<class>/*.jpg.

Command: python train.py --config=configs/folder.py --config.dataset.folder=DIR

A tenth of each class is held out to choose the best epoch. With splits of your own beside train, say
--config.dataset.validation=0 --config.dataset.validation_split=val, and --config.dataset.test_split=test.
Images become squares of 64 pixels (dataset.image_size), which keeps a laptop patient; batches are small, so
that some hundred images are enough to begin with. From 160 pixels on --config.model.stem=imagenet needs a
quarter of the work; with thousands of images take larger batches and, in proportion, a higher rate.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.epochs = 30
    config.batch_size = 32
    config.precision = 'auto'

    config.dataset.name = ''  # DIR's own
    config.dataset.image_size = 64
    config.dataset.validation = 0.1
    config.dataset.test_split = ''
    config.dataset.drop_last = True
    config.augmentation.crop_scale_min = 0.5
    config.augmentation.flip = True

    config.model.stem = 'cifar_pool'
    config.model.zero_init_last_norm = True
    config.loss.label_smoothing = 0.1
    config.optimizer.learning_rate = 0.05
    config.optimizer.nesterov = True
    config.schedule.warmup_epochs = 2.0
    return config
