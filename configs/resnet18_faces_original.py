"""ResNet-18 on a folder of face images, exactly as the original.

Command: python train.py --config=configs/resnet18_faces_original.py --config.dataset.folder=DIR

SGD at a constant rate for 20 epochs in batches of 256: for sets of thousands of people; 240 images would see
20 steps. The original trains in float16 with a loss scale: --config.precision=float16 does so on a
GPU (auto takes bfloat16 there, which needs none).

The original, on 431,550 images of 8,631 people: 72.4 % of the dev images classified, pairs of other people
verified with an equal error rate of 9.54 % (best epoch 9.37 %), 91.0 % accuracy and an AUC of 96.4 %.

Variants: --config.schedule.name=plateau with plateau_factor=.5, plateau_patience=5, plateau_threshold=.1;
--config.augmentation.cutmix_alpha=.8; --config.model.activation=gelu; --config.optimizer.name=adam with
learning_rate=1e-4, or adamw with weight_decay=.01 (PyTorch's) too; --config.loss.name=arcface with
--config.model.head=cosine.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.epochs = 20
    config.batch_size = 256
    config.precision = 'auto'

    config.dataset.name = ''  # DIR's own
    config.dataset.image_size = 112
    config.dataset.validation = 0
    config.dataset.validation_split = 'dev'
    config.dataset.test_split = ''
    config.dataset.normalization = 'half'
    config.augmentation.flip = True
    config.augmentation.brightness = 0.2
    config.augmentation.contrast = 0.3
    config.augmentation.saturation = 0.3
    config.augmentation.hue = 0.1
    config.augmentation.rotation = 5.0
    config.augmentation.perspective = 0.5
    config.augmentation.blur = 3

    config.model.name = 'resnet18'
    config.model.stem = 'imagenet'
    config.loss.label_smoothing = 0.1
    config.optimizer.learning_rate = 0.01
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0
    config.schedule.name = 'constant'
    config.verification.pairs = 'val_pairs.txt'
    config.verification.split = 'ver_data'
    return config
