"""Writes tests/parity/golden/*.npz: what PyTorch computes on a CPU in float32.

Command: pip install torch==2.13.0 numpy, then python tests/parity/make_golden.py
"""

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
        golden, exact = one_step(name), one_step(name, torch.float64)['gradients']
        inexact = [one_step(name, noise=f'noise {index}') for index in range(3)]
        for other, limit in ((golden, 1e-4), *((other, 1e-3) for other in inexact)):
            error = np.linalg.norm(other['gradients'] - exact, axis=1)
            assert (error < limit * np.linalg.norm(exact, axis=1)).all(), f'{name}: take another batch'
        np.savez_compressed(FOLDER / f'{name}.npz', **golden)
    losses = {'resnet18': five_steps('resnet18')}
    for name in formula.RECIPES:
        exact = twenty_steps(name, torch.float64)
        for threads in (1, 2):  # which add in another order
            torch.set_num_threads(threads)
            losses[name] = twenty_steps(name, torch.float32)
            error = abs(losses[name] / exact - 1)
            assert max(error[:5].max() * 200, error.max()) < 1e-2, f'{name}: lower its rate'
    np.savez_compressed(FOLDER / 'losses.npz', **losses)
    np.savez_compressed(FOLDER / 'optimizers.npz', **{case: updates(case) for case in formula.OPTIMIZERS})
    np.savez_compressed(FOLDER / 'schedules.npz', **{case: schedule(case) for case in formula.SCHEDULES})
    np.savez_compressed(FOLDER / 'plateaus.npz', **{case: plateau(case) for case in formula.PLATEAUS})


def create_model(side, keys, noise=None):
    """Returns the model with the formula's weights, wrong by up to 1e-6 where `noise` names what to draw."""
    keys = {'num_classes': formula.CLASSES, 'width': formula.WIDTH, **keys}
    match keys['name']:
        case 'simple_cnn':
            model = torch_models.SimpleCNN(**keys, side=side)
        case 'cnn5':
            model = torch_models.CNN5(**keys)
        case _:
            model = torch_models.ResNet(**keys)
    drawn = {
        key: torch.from_numpy(formula.weight(key, tuple(value.shape)))
        for key, value in model.state_dict().items()
        if not key.endswith('num_batches_tracked')
    }
    if noise:
        for key, value in drawn.items():
            value *= 1 + 1e-6 * torch.from_numpy(formula.draw(f'{noise} {key}', value.shape))
    model.load_state_dict(drawn, strict=False)
    return model


def create_batch(name, side):
    images, labels = formula.batch(name, side)
    images = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (images - 0.5) / 0.5, torch.from_numpy(labels).long()


def one_step(name, dtype=torch.float32, noise=None):
    """Returns evaluation's features and logits, and a training pass's loss, gradients and statistics."""
    side, number, keys = formula.MODELS[name]
    model = create_model(side, keys, noise).to(dtype)
    images, labels = create_batch(f'{name} {number}', side)
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


def twenty_steps(name, dtype):
    """Returns the losses of a recipe's steps, without augmentation and dropout and at a constant rate."""
    keys, side, rate = formula.RECIPES[name]
    model = create_model(side, keys).to(dtype).train()
    slow = [parameter.detach().clone() for parameter in model.parameters()]
    if name == 'resnet10_cifar10':
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    else:
        decay = 0.0 if name == 'resnet18_faces_original' else 5e-4
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    smoothing = 0.1 if name == 'resnet18_faces_original' else 0.0
    losses = []
    for step in range(formula.RECIPE_STEPS):
        images, labels = create_batch(f'step {step}', side)
        optimizer.zero_grad()
        loss = cross_entropy(model(images.to(dtype)), labels, label_smoothing=smoothing)
        loss.backward()
        if name == 'se_resnet_cifar10':
            torch.nn.utils.clip_grad_value_(model.parameters(), 0.1)
        optimizer.step()
        if name == 'resnet10_cifar10' and (step + 1) % 5 == 0:
            torch_models.look_ahead(slow, model, 0.5)
        losses.append(loss.item())
    return np.array(losses)


def five_steps(name):
    """Returns the losses of steps with SGD, label smoothing and weight decay."""
    side, _, keys = formula.MODELS[name]
    model = create_model(side, keys).train()
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, weight_decay=5e-4)
    losses = []
    for step, rate in enumerate(formula.STEP_RATES):
        images, labels = create_batch(f'step {step}', side)
        optimizer.param_groups[0]['lr'] = rate
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels, label_smoothing=formula.LABEL_SMOOTHING)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses, np.float32)


def updates(case):
    """Returns all parameters, flat, after every tenth update: float32[5, 28]."""
    rate, keys = formula.OPTIMIZERS[case]
    clip_value, clip_norm = keys.get('clip_value'), keys.get('clip_norm')
    parameters = {
        name: torch.nn.Parameter(torch.from_numpy(formula.draw(name, shape)))
        for name, shape in formula.OPTIMIZER_SHAPES.items()
    }
    optimizer = create_optimizer(parameters.values(), rate, keys)
    (group,) = optimizer.param_groups
    history = []
    for step in range(formula.OPTIMIZER_STEPS):
        for name, parameter in parameters.items():
            noise = torch.from_numpy(formula.draw(f'{name} {step}', tuple(parameter.shape)))
            parameter.grad = noise + formula.CURVATURE * parameter.detach()
        if clip_value:
            torch.nn.utils.clip_grad_value_(parameters.values(), clip_value)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters.values(), clip_norm)
        if case.endswith('cycled'):
            momentum = formula.cycled_momentum(step)
            group |= {'betas': (momentum, group['betas'][1])} if 'betas' in group else {'momentum': momentum}
        optimizer.step()
        history.append(torch.cat([p.detach().ravel() for p in parameters.values()]).numpy())
    return np.stack(history[formula.OPTIMIZER_KEPT_EVERY - 1 :: formula.OPTIMIZER_KEPT_EVERY])


def create_optimizer(parameters, rate, keys):
    name, decay = keys.get('name', 'sgd'), keys.get('weight_decay', 0.0)
    momentum, eps = keys.get('momentum', 0.0), keys.get('epsilon', 1e-8)
    if name == 'sgd':
        nesterov = keys.get('nesterov', False)
        return torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=nesterov)
    if name == 'rmsprop':
        alpha = keys.get('rmsprop_decay', 0.99)
        return torch.optim.RMSprop(parameters, rate, alpha, eps, weight_decay=decay, momentum=momentum)
    adam = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}[name]
    return adam(parameters, rate, (keys.get('beta1', 0.9), keys.get('beta2', 0.999)), eps, decay)


def schedule(case):
    """Returns learning rate and momentum of each scheduler step, float64[2, 250]."""
    rate, keys = formula.SCHEDULES[case]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, momentum=0.9)
    scheduler = create_scheduler(optimizer, rate, keys)
    values = []
    for step in range(formula.SCHEDULE_LENGTH):
        values.append([optimizer.param_groups[0]['lr'], optimizer.param_groups[0]['momentum']])
        if step + 1 < formula.SCHEDULE_LENGTH:
            optimizer.step()
            scheduler.step()
    return np.array(values).T


def create_scheduler(optimizer, rate, keys):
    schedulers = torch.optim.lr_scheduler
    per_epoch = formula.STEPS_PER_EPOCH if keys.get('interval') == 'step' else 1
    final = keys.get('final_learning_rate', 0.0)
    match keys['name']:
        case 'constant':
            return schedulers.ConstantLR(optimizer, 1.0)
        case 'step':
            return schedulers.StepLR(optimizer, keys['step_size'] * per_epoch, keys['gamma'])
        case 'multistep':
            milestones = [epoch * per_epoch for epoch in keys['milestones']]
            return schedulers.MultiStepLR(optimizer, milestones, keys['gamma'])
        case 'exponential':
            return schedulers.ExponentialLR(optimizer, keys['gamma'] ** (1 / per_epoch))
        case 'cosine':
            return schedulers.CosineAnnealingLR(optimizer, keys['t_max'] * per_epoch, final)
        case 'cosine_restarts':
            first, factor = keys['t_0'] * per_epoch, keys.get('t_mult', 1)
            return schedulers.CosineAnnealingWarmRestarts(optimizer, first, factor, final)
        case 'onecycle':
            same = {key: value for key, value in keys.items() if key not in ('name', 'interval')}
            return schedulers.OneCycleLR(optimizer, rate, **same)


def plateau(case):
    """Returns the learning rate of each epoch, float64[250]."""
    rate, metrics, keys = formula.PLATEAUS[case]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **keys)
    rates = []
    for metric in formula.metrics(metrics):
        rates.append(optimizer.param_groups[0]['lr'])
        scheduler.step(metric)
    return np.array(rates)


if __name__ == '__main__':
    main()
