"""ResNet-18 on a folder of face images, to tell people apart and to verify people never seen.

Command: python train.py --config=configs/resnet18_faces.py --config.dataset.folder=DIR

torchvision's architecture for images of 112x112. The augmentations of resnet18_faces_original.py and what a
set of any size gains from: CutMix and random crops, small batches, a rate that decays, an average of the
weights, and a cosine head, whose features are made to be compared by their angle.
"""

from configs import resnet18_faces_original


def get_config():
    config = resnet18_faces_original.get_config()
    config.epochs = 60
    config.batch_size = 32
    config.dataset.drop_last = True
    config.augmentation.crop_padding = 12
    config.augmentation.cutmix_alpha = 0.8
    config.model.head = 'cosine'
    config.model.cosine_scale = 16.0
    config.model.dropout = 0.5
    config.optimizer.learning_rate = 0.03
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = 'cosine'
    config.ema.decay = 0.98
    return config
