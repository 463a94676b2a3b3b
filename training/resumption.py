"""Which checkpoint a run continues from, and whether its data are still the same."""

from pathlib import Path

from ml_collections import ConfigDict

from training import CheckpointError
from training.checkpoints import KEPT, Checkpoints
from training.evaluation import check_classes
from training.experiment import Experiment
from training.progress import Progress, restored_progress

BEST = tuple(name for name in KEPT if name != 'last')  # checkpoints of the epochs that Progress says


def find_last(
    checkpoints: Checkpoints, config: ConfigDict, steps_per_epoch: int
) -> tuple[int, dict, Progress] | None:
    """Returns step, metadata and progress of the newest `last` of which the best ones are there, too.

    None: there is no checkpoint yet.

    Raises:
      CheckpointError: each `last` lacks a best one; or the config does not continue it.
    """
    missing: dict[Path, None] = {}
    for step in reversed(steps := checkpoints.steps('last')):
        metadata = checkpoints.metadata('last', step)
        progress = restored_progress(metadata, config, begun=step % steps_per_epoch > 0)
        best = {name: getattr(progress, f'{name}_epoch') * steps_per_epoch for name in BEST}
        lacking = [name for name, at in best.items() if at and at not in checkpoints.steps(name)]
        if not lacking:
            return step, metadata, progress
        missing |= {checkpoints.directory / name / str(best[name]): None for name in lacking}
    if not steps:
        return None
    raise CheckpointError(
        f'there is no {" and no ".join(map(str, missing))}, which the checkpoints in '
        f'{checkpoints.directory / "last"} need: put it back, or begin a new run in another --workdir.'
    )


def check_data(metadata: dict, experiment: Experiment, workdir: Path) -> None:
    """Raises CheckpointError unless the run of a checkpoint was trained on the data of this one."""
    dataset = experiment.dataset
    check_classes(metadata['dataset']['class_names'], dataset)
    then = {'train_images': metadata['train_images'], **metadata['dataset']}
    now = {'train_images': experiment.loaders['train'].size, **dataset.description()}
    changed = [f'{k} was {then[k]}, is {new}' for k, new in now.items() if then.get(k, new) != new]
    if changed:
        raise CheckpointError(
            f'{dataset.name} has changed since {workdir} was trained on it: {"; ".join(changed)} '
            '(train_checksum: of labels and names). Put it back, or begin a new run in another --workdir.'
        )
