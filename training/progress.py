"""Where a run is: what its checkpoint holds besides arrays."""

from dataclasses import dataclass, field

from ml_collections import ConfigDict

from training.parallel import SUMS
from training.schedules import Plateau


@dataclass
class Progress:
    """Where a run is. Every field goes into JSON and back."""

    epoch: int = 0  # whole ones done
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))  # of the running one
    seconds: float = 0.0  # of the running one
    waited: float = 0.0  # of these, for batches
    train_seconds: float = 0.0  # of all done
    best_epoch: int = 0
    best: list[float] | None = None  # what chose the best checkpoint
    best_verification_epoch: int = 0
    best_verification: list[float] | None = None  # what chose that checkpoint
    stopping_best: float | None = None  # the metric of early stopping
    stale_epochs: int = 0  # since it last became better
    stopped: bool = False  # by early stopping
    plateau: Plateau = field(default_factory=Plateau)


def restored_progress(metadata: dict, config: ConfigDict) -> Progress:
    """Returns where the run of a checkpoint is, under the config that continues it."""
    saved = metadata['progress']
    progress, stopping = Progress(**{**saved, 'plateau': Plateau(**saved['plateau'])}), config.early_stopping
    if metadata['config']['early_stopping']['metric'] != stopping.metric:
        progress.stopping_best, progress.stale_epochs = None, 0
    progress.stopped = 0 < stopping.patience <= progress.stale_epochs
    return progress
