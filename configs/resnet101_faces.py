"""ResNet-101 on a folder of face images.

Command: python train.py --config=configs/resnet101_faces.py --config.dataset.folder=DIR

All else as in resnet18_faces_original.py, for sets of thousands of people.
"""

from configs import resnet18_faces_original


def get_config():
    config = resnet18_faces_original.get_config()
    config.model.name = 'resnet101'
    return config
