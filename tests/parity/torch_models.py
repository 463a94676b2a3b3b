"""The recipes' models in PyTorch, for comparison. Needs PyTorch.

ResNets follow torchvision/models/resnet.py, whose names and shapes their state dicts have; arguments are
named like the keys of config.model.
"""

import torch
from torch import nn

STAGE_SIZES = {
    'resnet10': (1, 1, 1, 1),
    'resnet18': (2, 2, 2, 2),
    'resnet34': (3, 4, 6, 3),
    'resnet50': (3, 4, 6, 3),
    'resnet101': (3, 4, 23, 3),
    'resnet152': (3, 8, 36, 3),
}


def _conv(inputs, outputs, kernel_size, stride=1):
    return nn.Conv2d(inputs, outputs, kernel_size, stride, padding=(kernel_size - 1) // 2, bias=False)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, reduction):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x):
        gate = torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.fc2(gate))


class _Block(nn.Module):
    def _add_shortcut(self, inputs, outputs, stride, kernel_size, se):
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcitation(outputs, se) if se else nn.Identity()
        self.downsample = None
        if stride != 1 or inputs != outputs:
            conv = _conv(inputs, outputs, kernel_size, stride)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.se(self.residual(x)) + shortcut)


class BasicBlock(_Block):
    expansion = 1

    def __init__(self, inputs, channels, stride, kernel_size, shortcut_kernel_size, se):
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, channels, kernel_size, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, kernel_size), nn.BatchNorm2d(channels)
        self._add_shortcut(inputs, channels, stride, shortcut_kernel_size, se)

    def residual(self, x):
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


class Bottleneck(_Block):
    expansion = 4

    def __init__(self, inputs, channels, stride, kernel_size, shortcut_kernel_size, se):
        super().__init__()
        outputs = channels * self.expansion
        self.conv1, self.bn1 = _conv(inputs, channels, 1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, kernel_size, stride), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = _conv(channels, outputs, 1), nn.BatchNorm2d(outputs)
        self._add_shortcut(inputs, outputs, stride, shortcut_kernel_size, se)

    def residual(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class ResNet(nn.Module):
    """Takes float32[batch, 3, height, width]; `dropout` is that of the head's hidden layers."""

    def __init__(
        self,
        *,
        name='resnet18',
        num_classes,
        width=64,
        stem='cifar',
        stage_sizes=(),
        kernel_sizes=(),
        shortcut_kernel_sizes=(),
        se='none',
        se_reduction=16,
        head_sizes=(),
        dropout=0.0,
    ):
        super().__init__()
        block = BasicBlock if name in ('resnet', 'resnet10', 'resnet18', 'resnet34') else Bottleneck
        stage_sizes = stage_sizes or STAGE_SIZES[name]
        kernel_sizes = kernel_sizes or (3,) * len(stage_sizes)
        shortcut_kernel_sizes = shortcut_kernel_sizes or (1,) * len(stage_sizes)
        self.conv1 = _conv(3, width, 7, 2) if stem == 'imagenet' else _conv(3, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcitation(width, se_reduction) if se == 'stem' else nn.Identity()
        self.maxpool = nn.Identity() if stem == 'cifar' else nn.MaxPool2d(3, 2, 1)
        inputs, stages = width, []
        for stage, size in enumerate(stage_sizes):
            blocks = []
            for index in range(size):
                channels = width * 2**stage
                stride = 2 if stage > 0 and index == 0 else 1
                sizes = kernel_sizes[stage], shortcut_kernel_sizes[stage]
                blocks.append(block(inputs, channels, stride, *sizes, se_reduction if se == 'blocks' else 0))
                inputs = channels * block.expansion
            stages.append(f'layer{stage + 1}')
            setattr(self, stages[-1], nn.Sequential(*blocks))
        self.stages = stages
        layers = []
        for units in head_sizes:
            layers += [nn.Linear(inputs, units), nn.ReLU(), nn.Dropout(dropout)]
            inputs = units
        last = nn.Linear(inputs, num_classes)
        self.fc = nn.Sequential(*layers, last) if layers else last

    def features(self, x):
        x = self.maxpool(self.se(self.relu(self.bn1(self.conv1(x)))))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return x.mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


@torch.no_grad()
def look_ahead(slow, model, alpha):
    """Moves the slow weights to the model's by a share, and the model's onto them (Zhang et al. 2019)."""
    for old, parameter in zip(slow, model.parameters(), strict=True):
        old += alpha * (parameter - old)
        parameter.copy_(old)


class CNN5(nn.Module):
    """Takes float32[batch, 3, side, side]."""

    def __init__(self, *, name, num_classes, width):
        super().__init__()
        inputs = 3
        for index, (size, stride) in enumerate(((7, 4), (3, 2), (3, 2), (3, 2), (3, 2)), 1):
            outputs = width * 2 ** (index - 1)
            setattr(self, f'conv{index}', _conv(inputs, outputs, size, stride))
            setattr(self, f'bn{index}', nn.BatchNorm2d(outputs))
            inputs = outputs
        self.fc = nn.Linear(inputs, num_classes)

    def features(self, x):
        for index in range(1, 6):
            x = torch.relu(getattr(self, f'bn{index}')(getattr(self, f'conv{index}')(x)))
        return x.mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


class SimpleCNN(nn.Module):
    """Takes float32[batch, 3, side, side]."""

    def __init__(self, *, name, num_classes, width, hidden, side):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(4 * width * (side // 8) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def features(self, x):
        for conv in (self.conv1, self.conv2, self.conv3):
            x = self.pool(torch.relu(conv(x)))
        return torch.relu(self.fc1(x.flatten(1)))

    def forward(self, x):
        return self.fc2(self.features(x))
