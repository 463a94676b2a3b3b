"""What is left of a model's accuracy on distorted images, in files of five severities as CIFAR-10-C has.

Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from input_pipeline import DataError
from input_pipeline.loaders import Resident
from input_pipeline.progress import track
from input_pipeline.sources import Split
from input_pipeline.streaming import Streaming
from training import plots
from training.evaluation import Evaluator, check_output, find_loader, restore, saved_config
from training.experiment import Experiment
from training.tracking import if_writable, write_csv, write_json

SEVERITIES = 5
LABELS = 'labels.npy'


class Unlabelled(DataError):
    """Images whose labels are not known; the message says why."""

    def __init__(self, reason: str):
        super().__init__(f'accuracy is unknown, only --predictions=FILE.csv can be written: {reason}')


def evaluate_distortions(
    workdir: Path,
    folder: Path,
    *,
    checkpoint: str = 'best',
    data_dir: str | None = None,
    predictions: Path | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> dict:
    """Evaluates a checkpoint on distorted images.

    Of labelled ones it writes `evaluations/distortions-<checkpoint>-<folder>.json` and a plot.

    Args:
      workdir: of a run.
      folder: its .npy files, uint8[5 n, height, width, channels], hold n images in each of five severities,
        the mildest first. labels.npy, int[5 n] or int[n], has their labels. Without it they are the n images
        of the run's test split in the order of the numbers that their ids end in, else unlabelled.
      checkpoint: best, last, best_verification, or a step.
      data_dir: where the datasets lie; where they lay in training by default.
      predictions: CSV file to write: id (<file>_<severity>_<index>, from 1 and from 0), label (predicted).
      devices: to run on; all by default.

    Returns:
      Checkpoint, step, folder, number of images, and of labelled ones the fractions `accuracy` (mean over
      files and severities), `accuracies` (of each file, by severity) and, without labels.npy,
      `clean_accuracy` (of the undistorted test images).

    Raises:
      CheckpointError: there is no such checkpoint, or it is damaged.
      NonFiniteLoss: the outputs of the model are not finite.
      DataError: a file does not suit, unlabelled ones are given without `predictions`, or these cannot be
        written.
    """
    if predictions is not None:
        check_output('predictions', predictions)
    config = saved_config(workdir, data_dir)
    folder = folder.expanduser().resolve()
    if not (paths := sorted(path for path in folder.glob('*.npy') if path.name != LABELS)):
        raise DataError(f'--distortions={folder}: there is no such folder, or no .npy file in it.')
    experiment, variables, step = restore(config, workdir, checkpoint, devices)
    files = {path.stem: _read_images(path, experiment.dataset.image_shape) for path in paths}
    is_main = experiment.execution.is_main
    try:
        labels, test = _find_labels(experiment, folder / LABELS, files)
    except Unlabelled as error:
        if predictions is None:
            raise
        labels = test = None
        if is_main:
            print(error, file=sys.stderr)

    run = experiment.execution.compile_predict(experiment.predict_step())

    def predict(loader: Resident | Streaming) -> np.ndarray:
        return Evaluator(experiment, loader).outputs(run, variables).argmax(1)

    predicted = {name: [] for name in files}
    for name, split in _splits(files, show=is_main):
        predicted[name].append(predict(Resident(split)))
    if predictions is not None and is_main:
        _write_predictions(predictions, predicted)
    result = {'checkpoint': checkpoint, 'step': step, 'folder': str(folder)}
    result['count'] = sum(map(len, files.values()))
    if labels is None:
        return result
    accuracies = {name: (np.stack(predicted[name]) == labels[name]).mean(1).tolist() for name in files}
    result |= {'accuracy': float(np.mean(list(accuracies.values()))), 'accuracies': accuracies}
    if test is not None:
        result['clean_accuracy'] = float(np.mean(predict(test) == test.labels))
    if is_main:
        with if_writable(workdir):
            _save(result, workdir)
    return result


def _splits(files: Mapping[str, np.ndarray], *, show: bool) -> Iterator[tuple[str, Split]]:
    """Yields each severity of each file, unlabelled, with a progress bar if they are to `show`."""
    parts = [(name, s) for name in files for s in range(SEVERITIES)]
    if show:
        title = f'Evaluating {len(files)} distortions in {SEVERITIES} severities'
        parts = track(parts, len(parts), title, size=lambda part: 1)
    for name, severity in parts:
        images = np.split(files[name], SEVERITIES)[severity]
        ids = [_id(name, severity, row) for row in range(len(images))]
        yield name, Split(images, np.full(len(images), -1, np.int32), np.array(ids))


def _id(name: str, severity: int, row: int) -> str:
    return f'{name}_{severity + 1}_{row}'


def _save(result: Mapping, workdir: Path) -> None:
    folder = Path(result['folder']).name
    stem = f'distortions-{result["checkpoint"]}-{folder}'
    write_json(workdir / 'evaluations' / f'{stem}.json', result)
    plots.distortions(
        result['accuracies'],
        workdir / 'plots' / f'{stem}.png',
        title=f'{workdir.name}, {result["checkpoint"]} (step {result["step"]:,}), {folder}',
        clean=result.get('clean_accuracy'),
    )


def _read_images(path: Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    images = _read(path)
    if images.dtype != np.uint8 or images.shape[1:] != image_shape:
        found = f'{images.dtype}{list(images.shape)}'
        raise DataError(f'{path}: expected uint8[images, {", ".join(map(str, image_shape))}]; found {found}')
    if not len(images) or len(images) % SEVERITIES:
        raise DataError(f'{path}: {len(images):,} images are not as many in each of {SEVERITIES} severities')
    return images


def _read(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode='r', allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError('an archive of arrays')
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f'{path} cannot be read as an array: {error}') from error
    return array


def _find_labels(
    experiment: Experiment, path: Path, files: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], Resident | Streaming | None]:
    """Returns the labels of each file, int[1 or 5, n], and the test images that they are of, if not `path`'s.

    Raises:
      Unlabelled: there is neither `path` nor what fits of the test split.
    """
    config, test = experiment.config.dataset, None
    if path.exists():
        labels = _read(path)
        classes = experiment.dataset.num_classes
        if labels.ndim != 1 or labels.dtype.kind not in 'iu' or not set(labels) <= set(range(classes)):
            raise DataError(f'{path}: expected integers from 0 to {classes - 1} in one dimension')
    elif not config.test_split:
        raise Unlabelled(f'there is no {path}, and this run has no test split')
    else:
        try:
            test = find_loader(experiment, config.name, 'test')
        except DataError as error:
            if experiment.execution.process_count > 1:
                raise  # the other processes wait for this one
            raise Unlabelled(f'there is no {path}, and of test: {error}') from error
        if (order := _original_order(test.ids)) is None:
            raise Unlabelled(f'there is no {path}, and the ids of test do not tell its original order')
        labels = test.labels[order]
    for name, images in files.items():
        if len(labels) not in (len(images), len(images) // SEVERITIES):
            counts = f'{len(labels):,} labels for the {len(images):,} images of {name}.npy'
            if test is None:
                raise DataError(f'{path}: {counts}')
            raise Unlabelled(f'there is no {path}, and test has {counts}')
    return {name: labels.reshape(-1, len(images) // SEVERITIES) for name, images in files.items()}, test


def _original_order(ids: np.ndarray) -> np.ndarray | None:
    """Returns the rows by the numbers 0 to n - 1 that ids such as test_00042 end in; None where they do not.

    Ids that sources.load made up, such as test-42, number the records in an order of TFDS's own.
    """
    found = [re.search(r'_(\d+)$', name) for name in ids]
    numbers = np.array([int(number[1]) if number else -1 for number in found])
    order = np.argsort(numbers)
    return order if np.array_equal(numbers[order], np.arange(len(ids))) else None


def _write_predictions(path: Path, predicted: Mapping[str, Sequence[np.ndarray]]) -> None:
    rows = (
        (_id(name, severity, row), label)
        for name, severities in predicted.items()
        for severity, labels in enumerate(severities)
        for row, label in enumerate(labels)
    )
    write_csv(path, ('id', 'label'), rows)
