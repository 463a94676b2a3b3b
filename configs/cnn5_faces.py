"""Five convolutions on a folder of face images, the network to begin with.

Command: python train.py --config=configs/cnn5_faces.py --config.dataset.folder=DIR

All else as in resnet18_faces.py.
"""

from configs import resnet18_faces


def get_config():
    config = resnet18_faces.get_config()
    config.model.name = 'cnn5'
    return config
