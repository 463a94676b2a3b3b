"""Learning rates and cycled momenta, computed on the host in float64: what is logged is applied."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

SCHEDULES = (
    'constant',
    'step',
    'multistep',
    'exponential',
    'cosine',
    'cosine_restarts',
    'onecycle',
    'plateau',
)
BATCH_SCALINGS = {'none': 0.0, 'linear': 1.0, 'sqrt': 0.5}  # exponents of batch / reference batch


def highest_rate(config: ConfigDict) -> float:
    """Returns the schedule's highest rate: `optimizer.learning_rate`, scaled with the batch where that is on.

    Linear: Goyal et al., 2017; sqrt: Krizhevsky, 2014.
    """
    optimizer = config.optimizer
    ratio = config.batch_size / optimizer.reference_batch
    return optimizer.learning_rate * ratio ** BATCH_SCALINGS[optimizer.scale_with_batch]


def warmup_epochs(config: ConfigDict) -> float:
    """Returns how long warm-up is: `schedule.warmup_epochs`, rounded where the rate changes every epoch.

    At most half of the run, which may have been shortened on the command line.
    """
    epochs, half = config.schedule.warmup_epochs, config.epochs / 2
    return min(round(epochs), int(half)) if config.schedule.interval == 'epoch' else min(epochs, half)


@dataclass
class Plateau:
    """The state of torch.optim.lr_scheduler.ReduceLROnPlateau, as a checkpoint keeps it."""

    learning_rate: float | None = None  # once reduced
    best: float | None = None
    num_bad_epochs: int = 0
    cooldown_counter: int = 0

    def step(self, config: ConfigDict, record: dict) -> None:
        """Takes the metrics of an epoch, after which a plateau may reduce the rate.

        Does nothing under other schedules, nor for epochs that begin in warm-up.

        Args:
          config: the whole config; reads `epochs`, `schedule` and what `highest_rate` does.
          record: `epoch` (1-based) and the metric that `schedule.plateau_metric` names.
        """
        schedule = config.schedule
        if schedule.name != 'plateau' or record['epoch'] - 1 < warmup_epochs(config):
            return
        metric = record[schedule.plateau_metric]
        if self.best is None or _is_better(schedule, metric, self.best):
            self.best = metric
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > schedule.plateau_patience:
            old = self.rate(config)
            new = max(old * schedule.plateau_factor, schedule.final_learning_rate)
            if old - new > schedule.plateau_eps:
                self.learning_rate = new
            self.cooldown_counter = schedule.plateau_cooldown
            self.num_bad_epochs = 0

    def rate(self, config: ConfigDict) -> float:
        """Returns the rate of the next epoch."""
        return highest_rate(config) if self.learning_rate is None else self.learning_rate


def _is_better(schedule: ConfigDict, metric: float, best: float) -> bool:
    sign = 1 if schedule.plateau_mode == 'max' else -1
    if schedule.plateau_threshold_mode == 'rel':
        limit = best * (1 + sign * schedule.plateau_threshold)
    else:
        limit = best + sign * schedule.plateau_threshold
    return metric > limit if sign > 0 else metric < limit


def hyperparameters(
    config: ConfigDict, steps_per_epoch: int, epoch: int, plateau: Plateau
) -> dict[str, np.ndarray]:
    """Returns what every step of an epoch (0-based) applies, float64[steps_per_epoch] each.

    `learning_rate` always, `momentum` where a schedule cycles it. The schedules are PyTorch's: StepLR,
    MultiStepLR, ExponentialLR, CosineAnnealingLR, CosineAnnealingWarmRestarts, OneCycleLR and
    ReduceLROnPlateau (torch.optim.lr_scheduler), stepped every optimizer step or every epoch
    (`schedule.interval`), with periods in epochs. Warm-up comes before: the rate rises linearly to the
    schedule's first, which it reaches with the last interval of warm-up, and only then time begins.

    Args:
      config: the whole config; reads `epochs`, `schedule` and what `highest_rate` does.
      plateau: after the epochs before this one.
    """
    schedule = config.schedule
    per_epoch = 1 if schedule.interval == 'epoch' else steps_per_epoch  # scheduler steps
    steps = epoch * steps_per_epoch + np.arange(steps_per_epoch)
    intervals = steps * per_epoch // steps_per_epoch
    warmup = round(warmup_epochs(config) * per_epoch)
    time = np.maximum(intervals - warmup, 0)
    rest = max(config.epochs * per_epoch - warmup, 1)

    if schedule.name == 'onecycle':
        values = _onecycle(config, time, schedule.total_steps or rest)
    elif schedule.name == 'plateau':
        values = {'learning_rate': np.full(steps_per_epoch, plateau.rate(config))}
    else:
        values = {'learning_rate': _rates(config, time, per_epoch, rest)}
    values['learning_rate'] = values['learning_rate'] * np.minimum((intervals + 1) / max(warmup, 1), 1)
    return values


def applied_rates(config: ConfigDict, steps_per_epoch: int, records: Sequence[dict]) -> np.ndarray:
    """Returns the learning rate of every step of the epochs whose metrics are given, float64[steps]."""
    plateau, rates = Plateau(), []
    config = config.copy_and_resolve_references()
    for epoch, record in enumerate(records):
        config.epochs = record['epochs']  # as it was then
        rates.append(hyperparameters(config, steps_per_epoch, epoch, plateau)['learning_rate'])
        plateau.step(config, record)
    return np.concatenate(rates)


def _rates(config: ConfigDict, time: np.ndarray, per_epoch: int, rest: int) -> np.ndarray:
    """Returns float64[steps] from times int64[steps] in intervals, of which an epoch has `per_epoch`."""
    schedule, base = config.schedule, highest_rate(config)
    final = schedule.final_learning_rate
    match schedule.name:
        case 'constant':
            return np.full(len(time), base)
        case 'step':
            return base * schedule.gamma ** (time // (schedule.step_size * per_epoch))
        case 'multistep':
            passed = np.searchsorted(schedule.milestones, time / per_epoch, side='right')
            return base * schedule.gamma**passed
        case 'exponential':
            return base * schedule.gamma ** (time / per_epoch)
        case 'cosine':
            return _cosine(base, final, time / (schedule.t_max * per_epoch or rest))
        case 'cosine_restarts':
            restarts, since, length = _restarts(time, schedule.t_0 * per_epoch, schedule.t_mult)
            return _cosine(base * schedule.restart_decay**restarts, final, since / length)


def _restarts(time: np.ndarray, first: int, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the restarts so far, the time since the last, and how long it is from that to the next."""
    starts, length = [0], first
    while starts[-1] + length <= time[-1]:
        starts.append(starts[-1] + length)
        length *= factor
    restarts = np.searchsorted(starts, time, side='right') - 1
    return restarts, time - np.take(starts, restarts), first * float(factor) ** restarts


def _onecycle(config: ConfigDict, time: np.ndarray, total: int) -> dict[str, np.ndarray]:
    schedule, top = config.schedule, highest_rate(config)
    peak, end = schedule.pct_start * total - 1, total - 1
    up = time / (peak or 1)
    down = np.minimum((time - peak) / (end - peak), 1)
    anneal = _cosine if schedule.anneal_strategy == 'cos' else _linear

    def cycle(first, middle, last):
        return np.where(time <= peak, anneal(first, middle, up), anneal(middle, last, down))

    first = top / schedule.div_factor
    values = {'learning_rate': cycle(first, top, first / schedule.final_div_factor)}
    if schedule.cycle_momentum:
        high, low = schedule.max_momentum, schedule.base_momentum
        values['momentum'] = cycle(high, low, high)
    return values


def _cosine(start, end, progress: np.ndarray) -> np.ndarray:
    return end + (start - end) * (1 + np.cos(math.pi * progress)) / 2


def _linear(start, end, progress: np.ndarray) -> np.ndarray:
    return start + (end - start) * progress
