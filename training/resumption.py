"""Which checkpoint a run continues from, and whether its config and data are still the same."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from training import CheckpointError
from training.checkpoints import KEPT, Checkpoints
from training.config import different_keys
from training.evaluation import check_classes
from training.experiment import Experiment
from training.progress import Progress, restored_progress

BEST = tuple(name for name in KEPT if name != 'last')  # checkpoints of the epochs that Progress says


def find_last(
    checkpoints: Checkpoints, experiment: Experiment, workdir: Path, records: int
) -> tuple[int, dict, Progress] | None:
    """Returns step, metadata and progress of the newest `last` of which all else is there, too.

    That is the best checkpoints, and of metrics.jsonl, which has `records` lines, one for each epoch done.
    None: there is no checkpoint yet.

    Raises:
      CheckpointError: config or data are another run's; or each `last` lacks something.
    """
    missing: dict[str, None] = {}
    for step in reversed(steps := checkpoints.steps('last')):
        metadata = checkpoints.metadata('last', step)
        # Again, now that nobody else trains here: meanwhile another run may have begun, of another config.
        check_same_run(workdir, metadata['config'], experiment.config)
        _check_data(metadata, experiment, workdir)
        progress = restored_progress(metadata, experiment.config, begun=step % experiment.steps > 0)
        best = {name: getattr(progress, f'{name}_epoch') * experiment.steps for name in BEST}
        lacking = [
            str(checkpoints.directory / name / str(at))
            for name, at in best.items()
            if at and at not in checkpoints.steps(name)
        ]
        if progress.epoch > records:
            lacking.append(f'line {records + 1} of {workdir / "metrics.jsonl"}')
        if not lacking:
            return step, metadata, progress
        missing |= dict.fromkeys(lacking)
    if not steps:
        return None
    raise CheckpointError(
        f'there is no {" and no ".join(missing)}, which the checkpoints in '
        f'{checkpoints.directory / "last"} need: put it back, or begin a new run in another --workdir.'
    )


def check_same_run(workdir: Path, saved: Mapping, config: ConfigDict) -> None:
    """Raises CheckpointError where a run's config, as it was saved, differs in what must not change."""
    if different := different_keys(saved, config):
        listed = '; '.join(f'config.{key} was {old!r}, is {new!r}' for key, (old, new) in different.items())
        raise CheckpointError(
            f'{workdir} holds a run with another config: {listed}. Continue it with its own values, or begin '
            'a new run in another --workdir.'
        )


def data_of(experiment: Experiment) -> dict:
    """Returns what a checkpoint says of the data besides `Dataset.description`."""
    paired = experiment.paired
    return {
        'train_images': experiment.loaders['train'].size,
        'pairs_checksum': None if paired is None else paired.checksum,
    }


def _check_data(metadata: dict, experiment: Experiment, workdir: Path) -> None:
    """Raises CheckpointError unless the run of a checkpoint was trained on the data of this one."""
    dataset = experiment.dataset
    check_classes(metadata['dataset']['class_names'], dataset)
    then = metadata | metadata['dataset']
    now = data_of(experiment) | dataset.description()
    if experiment.config.dataset.folder:  # the name depends on the folder's path
        then['name'] = now['name']
    changed = [f'{k} was {then[k]}, is {new}' for k, new in now.items() if then.get(k, new) != new]
    if changed:
        raise CheckpointError(
            f'{dataset.name} has changed since {workdir} was trained on it: {"; ".join(changed)} '
            '(checksums: of labels and names). Put it back, or begin a new run in another --workdir.'
        )
