"""Trains a CIFAR recipe here and in PyTorch on the same images, and prints the accuracy of every epoch.

Command: python benchmarks/recipes.py --config=configs/simple_cnn_cifar100.py [--epochs=5] [--data_dir=DIR]

PyTorch's side builds the model, optimizer, cosine and augmentation (crop, flip, cutout) that the config names
from PyTorch's own parts, with PyTorch's own initialisation and random numbers; split, normalisation and order
of evaluation are shared. Needs PyTorch; uses its GPU where there is one.
"""

import argparse
import importlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ml_collections import ConfigDict
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs import default
from input_pipeline import normalization, sources
from input_pipeline.splits import carve_validation
from tests.parity import torch_models
from training.host_memory import keep_freed_memory, use_huge_pages
from training.keys import flatten
from training.run import run

# What `train_in_torch` makes: these values of these keys, and any of the others.
BUILT = {
    'model.name': ('simple_cnn', 'resnet', *torch_models.STAGE_SIZES),
    'optimizer.name': ('sgd', 'adam'),
    'schedule.name': ('cosine',),
    'schedule.interval': ('epoch',),
}
HEEDED = re.compile(
    r'epochs|batch_size|seed|dataset\.(name|data_dir|validation(_seed)?|watch_test|normalization)'
    r'|augmentation\.(crop_padding|flip|cutout)'
    r'|model\.(width|hidden|stem|stage_sizes|(shortcut_)?kernel_sizes|se|se_reduction|head_sizes|dropout)'
    r'|model\.max_parameters|optimizer\.(learning_rate|momentum|nesterov|weight_decay|clip_value)'
    r'|optimizer\.lookahead_(steps|alpha)|schedule\.t_max'
)
DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def main():
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--config', required=True, help='configs/simple_cnn_cifar100.py or another')
    parser.add_argument(
        '--epochs', type=int, help='stop after so many; the schedule stays that of the config'
    )
    parser.add_argument('--data_dir', default='', help="where TFDS keeps its datasets; TFDS's own by default")
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    config = importlib.import_module(f'configs.{Path(arguments.config).stem}').get_config()
    if others := not_built(config):
        parser.error(f'{arguments.config} has what is not built in PyTorch here: {", ".join(others)}')
    config.dataset.data_dir, config.seed = arguments.data_dir, arguments.seed
    if arguments.epochs:
        config.schedule.t_max = config.schedule.t_max or config.epochs
        config.epochs = arguments.epochs

    split = 'val' if config.dataset.validation else 'test'
    config.dataset.watch_test = split == 'test'
    with tempfile.TemporaryDirectory() as workdir:
        results = run(config, Path(workdir))
        lines = (Path(workdir) / 'metrics.jsonl').read_text().splitlines()
    ours = [json.loads(line) for line in lines]
    theirs = []
    for record in train_in_torch(config, split):
        theirs.append(record)
        print(f'PyTorch epoch {record["epoch"]}/{config.epochs}  {record}', flush=True)
    print(f'\n{arguments.config}, seed {config.seed}, accuracy in %: train, {split}; seconds of training')
    for mine, other in zip(ours, theirs, strict=True):
        columns = [
            f'{100 * r["train_accuracy"]:6.2f} {100 * r[f"{split}_accuracy"]:6.2f} {r["seconds"]:7.1f} s'
            for r in (mine, other)
        ]
        print(f'epoch {mine["epoch"]:3}  ours {columns[0]}  PyTorch {columns[1]}')
    print(f'ours, test: {100 * results["test_accuracy"]:.2f} %')


def not_built(config: ConfigDict) -> list[str]:
    """Returns the keys whose values `train_in_torch` does not heed."""
    flat, defaults = flatten(config), flatten(default.get_config())
    others = [
        f'{key}={value}'
        for key, value in flat.items()
        if (value not in BUILT[key] if key in BUILT else value != defaults[key] and not HEEDED.fullmatch(key))
    ]
    if config.model.dropout and not config.model.head_sizes:
        others.append(f'model.dropout={config.model.dropout} without head_sizes')
    return others


def train_in_torch(config: ConfigDict, split: str) -> Iterator[dict]:
    """Yields the record of each epoch, named as in metrics.jsonl."""
    torch.manual_seed(config.seed)
    dataset = sources.load(config.dataset)
    mean, std = normalization.constants(config.dataset.normalization, dataset)
    train, test = dataset.splits['train'], dataset.splits['test']
    rows = np.arange(len(train.labels)), np.arange(len(test.labels))
    if split == 'val':
        rows = carve_validation(train.labels, config.dataset.validation, config.dataset.validation_seed)
        test = train
    images, labels = to_torch(train.images[rows[0]], train.labels[rows[0]])
    test_images, test_labels = to_torch(test.images[rows[1]], test.labels[rows[1]])
    mean, std = (torch.tensor(x, device=DEVICE).reshape(3, 1, 1) for x in (mean, std))

    model = create_model(config.model, dataset.num_classes).to(DEVICE, memory_format=torch.channels_last)
    optimizer = create_optimizer(config.optimizer, model)
    lookahead = config.optimizer.lookahead_steps
    slow = [parameter.detach().clone() for parameter in model.parameters()]
    t_max = config.schedule.t_max or config.epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, t_max)
    steps = 0
    for epoch in range(1, config.epochs + 1):
        started, loss_sum, correct = time.perf_counter(), 0.0, 0
        model.train()
        for batch in torch.randperm(len(images)).split(config.batch_size):
            x = augment(images[batch].float() / 255, config.augmentation, lambda x: (x - mean) / std)
            logits = model(x.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            if config.optimizer.clip_value:
                torch.nn.utils.clip_grad_value_(model.parameters(), config.optimizer.clip_value)
            optimizer.step()
            steps += 1
            if lookahead and steps % lookahead == 0:
                torch_models.look_ahead(slow, model, config.optimizer.lookahead_alpha)
            loss_sum += loss.item() * len(batch)
            correct += (logits.argmax(1) == labels[batch]).sum().item()
        seconds = time.perf_counter() - started
        schedule.step()
        model.eval()
        with torch.no_grad():
            right = sum(
                (model((x.float() / 255 - mean) / std).argmax(1) == y).sum().item()
                for x, y in zip(test_images.split(1000), test_labels.split(1000), strict=True)
            )
        yield {
            'epoch': epoch,
            'train_loss': loss_sum / len(images),
            'train_accuracy': correct / len(images),
            f'{split}_accuracy': right / len(test_images),
            'seconds': seconds,
        }


def to_torch(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(np.array(images)).to(DEVICE).permute(0, 3, 1, 2)
    return images, torch.from_numpy(np.array(labels)).long().to(DEVICE)


def create_model(config: ConfigDict, num_classes: int) -> torch.nn.Module:
    keys = {'name': config.name, 'num_classes': num_classes, 'width': config.width}
    if config.name == 'simple_cnn':
        return torch_models.SimpleCNN(**keys, hidden=config.hidden, side=32)
    names = 'stem', 'stage_sizes', 'kernel_sizes', 'shortcut_kernel_sizes'
    names += 'se', 'se_reduction', 'head_sizes', 'dropout'
    return torch_models.ResNet(**keys, **{name: config[name] for name in names})


def create_optimizer(config: ConfigDict, model: torch.nn.Module) -> torch.optim.Optimizer:
    keys = {'lr': config.learning_rate, 'weight_decay': config.weight_decay}
    if config.name == 'adam':
        return torch.optim.Adam(model.parameters(), **keys)
    return torch.optim.SGD(model.parameters(), **keys, momentum=config.momentum, nesterov=config.nesterov)


def augment(images: torch.Tensor, config: ConfigDict, normalize) -> torch.Tensor:
    """Crops and flips float32[batch, 3, height, width], normalises, and cuts squares out."""
    count, _, height, width = images.shape
    every = torch.arange(count, device=DEVICE)[:, None, None]
    if padding := config.crop_padding:
        padded = functional.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
        top, left = torch.randint(0, 2 * padding + 1, (2, count, 1, 1), device=DEVICE)
        rows = top + torch.arange(height, device=DEVICE)[:, None]
        images = padded[every, rows, left + torch.arange(width, device=DEVICE)].permute(0, 3, 1, 2)
    if config.flip:
        flip = torch.rand(count, 1, 1, 1, device=DEVICE) < 0.5
        images = torch.where(flip, images.flip(3), images)
    images = normalize(images)
    if size := config.cutout:
        row, column = (torch.randint(0, n, (count, 1, 1, 1), device=DEVICE) for n in (height, width))
        rows = torch.arange(height, device=DEVICE)[:, None] - row
        columns = torch.arange(width, device=DEVICE) - column
        inside = (
            (rows >= -(size // 2)) & (rows < size // 2) & (columns >= -(size // 2)) & (columns < size // 2)
        )
        images = images.masked_fill(inside, 0.0)
    return images


if __name__ == '__main__':
    use_huge_pages()
    main()
