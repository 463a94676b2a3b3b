"""torchvision's ResNet (torchvision/models/resnet.py) with a CIFAR stem and a free width, for comparison.

Its state dict has torchvision's names and shapes. Needs PyTorch.
"""

from torch import nn

STAGE_SIZES = {
    'resnet18': (2, 2, 2, 2),
    'resnet34': (3, 4, 6, 3),
    'resnet50': (3, 4, 6, 3),
    'resnet101': (3, 4, 23, 3),
    'resnet152': (3, 8, 36, 3),
}


def _conv(inputs, outputs, kernel_size, stride=1):
    return nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, bias=False)


class _Block(nn.Module):
    def _add_shortcut(self, inputs, outputs, stride):
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.residual(x) + shortcut)


class BasicBlock(_Block):
    expansion = 1

    def __init__(self, inputs, channels, stride):
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3), nn.BatchNorm2d(channels)
        self._add_shortcut(inputs, channels, stride)

    def residual(self, x):
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


class Bottleneck(_Block):
    expansion = 4

    def __init__(self, inputs, channels, stride):
        super().__init__()
        outputs = channels * self.expansion
        self.conv1, self.bn1 = _conv(inputs, channels, 1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = _conv(channels, outputs, 1), nn.BatchNorm2d(outputs)
        self._add_shortcut(inputs, outputs, stride)

    def residual(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class ResNet(nn.Module):
    """Takes float32[batch, 3, height, width]; `name` is a key of STAGE_SIZES, `stem` cifar or imagenet."""

    def __init__(self, name, *, num_classes, width=64, stem='imagenet'):
        super().__init__()
        block = BasicBlock if name in ('resnet18', 'resnet34') else Bottleneck
        self.conv1 = _conv(3, width, 7, 2) if stem == 'imagenet' else _conv(3, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == 'imagenet' else nn.Identity()
        inputs = width
        for stage, size in enumerate(STAGE_SIZES[name]):
            blocks = []
            for index in range(size):
                channels = width * 2**stage
                blocks.append(block(inputs, channels, 2 if stage > 0 and index == 0 else 1))
                inputs = channels * block.expansion
            setattr(self, f'layer{stage + 1}', nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, num_classes)

    def features(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))
