"""Writes tests/parity/golden/*.npz: what PyTorch computes on a CPU in float32.

Command: pip install torch==2.13.0 numpy, then python tests/parity/make_golden.py
"""

from functools import partial
from pathlib import Path

import formula
import numpy as np
import torch
import torch_models
from torch.nn.functional import cross_entropy

FOLDER = Path(__file__).parent / 'golden'


def main():
    torch.manual_seed(0)
    FOLDER.mkdir(exist_ok=True)
    for name in formula.MODELS:
        golden, exact = one_step(name, torch.float32), one_step(name, torch.float64)
        error = np.linalg.norm(golden['gradients'] - exact['gradients'], axis=1)
        assert (error < 1e-4 * np.linalg.norm(exact['gradients'], axis=1)).all(), f'{name}: change its draws'
        np.savez_compressed(FOLDER / f'{name}.npz', **golden)
    np.savez_compressed(FOLDER / 'losses.npz', resnet18=five_steps('resnet18'))
    np.savez_compressed(FOLDER / 'sgd.npz', **{case: sgd(case) for case in formula.OPTIMIZERS})
    np.savez_compressed(FOLDER / 'cosine.npz', **{case: cosine(case) for case in formula.COSINES})


def create_model(name):
    side, keys = formula.MODELS[name]
    if name == 'simple_cnn':
        create = partial(torch_models.SimpleCNN, side=side)
    else:
        create = torch_models.ResNet
    model = create(num_classes=formula.CLASSES, width=formula.WIDTH, **keys)
    drawn = {
        key: torch.from_numpy(formula.weight(key, tuple(value.shape)))
        for key, value in model.state_dict().items()
        if not key.endswith('num_batches_tracked')
    }
    model.load_state_dict(drawn, strict=False)
    return model


def create_batch(model_name, batch_name):
    images, labels = formula.batch(batch_name, formula.MODELS[model_name][0])
    images = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (images - 0.5) / 0.5, torch.from_numpy(labels).long()


def one_step(name, dtype):
    """Returns evaluation's features and logits, and a training pass's loss, gradients and statistics."""
    model = create_model(name).to(dtype)
    images, labels = create_batch(name, name)
    images = images.to(dtype)
    with torch.no_grad():
        features, logits = model.eval().features(images), model(images)
    loss = cross_entropy(model.train()(images), labels)
    loss.backward()
    gradients = {key: formula.digest(parameter.grad) for key, parameter in model.named_parameters()}
    statistics = {key: formula.digest(buffer) for key, buffer in model.named_buffers() if 'running' in key}
    return {
        'features': features.numpy(),
        'logits': logits.numpy(),
        'loss': loss.detach().numpy(),
        'gradient_names': np.array(list(gradients)),
        'gradients': np.array(list(gradients.values())),
        'statistic_names': np.array(list(statistics)),
        'statistics': np.array(list(statistics.values())),
    }


def five_steps(name):
    """Returns the losses of steps with SGD, label smoothing and weight decay."""
    model = create_model(name).train()
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, weight_decay=5e-4)
    losses = []
    for step, rate in enumerate(formula.STEP_RATES):
        images, labels = create_batch(name, f'step {step}')
        optimizer.param_groups[0]['lr'] = rate
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels, label_smoothing=formula.LABEL_SMOOTHING)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses, np.float32)


def sgd(case):
    """Returns all parameters, flat, after every tenth update: float32[5, 28]."""
    rate, keys = formula.OPTIMIZERS[case]
    clip_value, clip_norm = keys.get('clip_value'), keys.get('clip_norm')
    keys = {key: value for key, value in keys.items() if not key.startswith('clip')}
    parameters = {
        name: torch.nn.Parameter(torch.from_numpy(formula.draw(name, shape)))
        for name, shape in formula.OPTIMIZER_SHAPES.items()
    }
    optimizer = torch.optim.SGD(parameters.values(), lr=rate, **keys)
    history = []
    for step in range(formula.OPTIMIZER_STEPS):
        for name, parameter in parameters.items():
            noise = torch.from_numpy(formula.draw(f'{name} {step}', tuple(parameter.shape)))
            parameter.grad = noise + formula.CURVATURE * parameter.detach()
        if clip_value:
            torch.nn.utils.clip_grad_value_(parameters.values(), clip_value)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters.values(), clip_norm)
        optimizer.step()
        history.append(torch.cat([p.detach().ravel() for p in parameters.values()]).numpy())
    return np.stack(history[formula.OPTIMIZER_KEPT_EVERY - 1 :: formula.OPTIMIZER_KEPT_EVERY])


def cosine(case):
    """Returns the rate of each interval as CosineAnnealingLR has it."""
    intervals, rate, final = formula.COSINES[case]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=intervals, eta_min=final)
    rates = []
    for _ in range(intervals):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return np.array(rates)


if __name__ == '__main__':
    main()
