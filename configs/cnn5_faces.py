"""Five convolutions on a folder of face images, the network to begin with.

Command: python train.py --config=configs/cnn5_faces.py --config.dataset.folder=DIR

All else as in resnet18_faces_original.py, for sets of thousands of people.
"""

from configs import resnet18_faces_original


def get_config():
    config = resnet18_faces_original.get_config()
    config.model.name = 'cnn5'
    config.model.stem = 'cifar'  # the default: it has none
    return config
