"""Learning rates, computed on the host in float64 and handed to the step: what is logged is applied."""

import math

import numpy as np
from ml_collections import ConfigDict

SCHEDULES = ('constant', 'cosine')
INTERVALS = ('step', 'epoch')


def learning_rates(config: ConfigDict, steps_per_epoch: int, epoch: int) -> np.ndarray:
    """Returns the rate of every step of an epoch (0-based), float64[steps_per_epoch].

    `cosine` is torch.optim.lr_scheduler.CosineAnnealingLR with T_max the length of the run after
    warm-up, stepped once per step or per epoch. Warm-up is linear and reaches the full rate with its
    last interval.

    Args:
      config: the whole config; reads `epochs`, `optimizer.learning_rate` and `schedule`.
    """
    steps = epoch * steps_per_epoch + np.arange(steps_per_epoch)
    per_epoch = 1 if config.schedule.interval == 'epoch' else steps_per_epoch
    time = steps // steps_per_epoch if config.schedule.interval == 'epoch' else steps
    warmup = round(config.schedule.warmup_epochs * per_epoch)
    total = config.epochs * per_epoch

    base, final = config.optimizer.learning_rate, config.schedule.final_learning_rate
    if config.schedule.name == 'constant':
        rates = np.full(steps_per_epoch, base)
    else:
        progress = (time - warmup) / max(total - warmup, 1)
        rates = final + (base - final) * (1 + np.cos(math.pi * progress)) / 2
    return np.where(time < warmup, base * (time + 1) / max(warmup, 1), rates)
