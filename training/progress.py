"""Where a run is: what its checkpoint holds besides arrays."""

from dataclasses import dataclass, field

from ml_collections import ConfigDict

from training import CheckpointError
from training.config import completed
from training.metric_names import higher_is_better
from training.schedules import Plateau
from training.steps import SUMS


@dataclass
class Progress:
    """Where a run is. Every field goes into JSON and back."""

    epoch: int = 0  # whole ones done
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))  # of the running one
    seconds: float = 0.0  # of the running one
    waited: float = 0.0  # of these, for batches
    train_seconds: float = 0.0  # of all done
    wall_seconds: float = 0.0  # with evaluating, saving and drawing, of the starts before this one
    best_epoch: int = 0
    best: list[float] | None = None  # what chose the best checkpoint
    best_verification_epoch: int = 0
    best_verification: list[float] | None = None  # what chose that checkpoint
    stopping_best: float | None = None  # the metric of early stopping
    stale_epochs: int = 0  # since it last became better
    stopped: bool = False  # by early stopping
    plateau: Plateau = field(default_factory=Plateau)

    def finish_epoch(self, config: ConfigDict, record: dict, selected_on: str | None) -> list[str]:
        """Counts an epoch as done, and returns the names of the checkpoints it is the best one for.

        Chosen are the highest accuracy, and of equal ones the lower loss on the split `selected_on` (none:
        each epoch is better than the one before) or EER of the pairs.
        """
        self.epoch = record['epoch']
        self.train_seconds += self.seconds
        self.seconds, self.waited, self.sums = 0.0, 0.0, dict.fromkeys(SUMS, 0.0)
        better = []
        score = selected_on and [record[f'{selected_on}_accuracy'], -record[f'{selected_on}_loss']]
        if score is None or self.best is None or score > self.best:
            self.best, self.best_epoch = score, self.epoch
            better.append('best')
        if 'verification_accuracy' in record:
            score = [record['verification_accuracy'], -record['verification_eer']]
            if self.best_verification is None or score > self.best_verification:
                self.best_verification, self.best_verification_epoch = score, self.epoch
                better.append('best_verification')
        self.plateau.step(config, record)
        stopping = config.early_stopping
        if stopping.patience:
            value = record[stopping.metric] * (1 if higher_is_better(stopping.metric) else -1)
            if self.stopping_best is None or value > self.stopping_best:
                self.stopping_best, self.stale_epochs = value, 0
            else:
                self.stale_epochs += 1
            self.stopped = self.stale_epochs >= stopping.patience
        return better


def restored_progress(metadata: dict, config: ConfigDict, *, begun: bool = False) -> Progress:
    """Returns where the run of a checkpoint is, under the config that continues it.

    Raises CheckpointError where it has `begun` an epoch that this config does not have.
    """
    saved = metadata['progress']
    progress, stopping = Progress(**{**saved, 'plateau': Plateau(**saved['plateau'])}), config.early_stopping
    if completed(metadata['config'])['early_stopping']['metric'] != stopping.metric:
        progress.stopping_best, progress.stale_epochs = None, 0
    # An epoch that has begun is trained to its end.
    progress.stopped = not begun and 0 < stopping.patience <= progress.stale_epochs
    if begun and config.epochs <= progress.epoch:
        raise CheckpointError(
            f'The run was interrupted in epoch {progress.epoch + 1}, and cannot go back to '
            f'config.epochs={config.epochs}: name {progress.epoch + 1} or more, or begin a new run in '
            'another --workdir.'
        )
    return progress
