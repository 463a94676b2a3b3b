"""A model on a whole split: its losses after every epoch, and all there is to say about a checkpoint."""

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from input_pipeline import DataError, sources
from input_pipeline.loaders import Resident, evaluation_order
from input_pipeline.streaming import Streaming
from training import CheckpointError, ConfigError, NonFiniteLoss, plots
from training.checkpoints import KEPT, Checkpoints
from training.config import RULES, completed
from training.evaluation_metrics import per_example, summarize
from training.experiment import Experiment, create_experiment, load_splits, select_loader, stored_split
from training.feeds import StreamingFeed
from training.resolve import resolve, selection_split
from training.steps import SUMS
from training.tracking import if_writable, write_csv, write_json


class Evaluator:
    """Evaluates variables on a split."""

    def __init__(self, experiment: Experiment, loader: Resident | Streaming):
        self._execution = experiment.execution
        self._loader = loader
        self._batch_size = experiment.config.batch_size
        rows = evaluation_order(loader.size, self._batch_size)
        self._rows = len(rows)
        self._order = self._execution.place_order(rows)
        self._resident = isinstance(loader, Resident)
        self._data = self._execution.place_data(loader.arrays) if self._resident else None

    def metrics(self, run: Callable, variables: Any) -> dict[str, float]:
        """Returns mean loss (nats) and accuracy, by `run` of compile_evaluate."""
        stride = self._rows if self._execution.many_steps and self._resident else 1
        parts = list(
            self._fetched(
                run(variables, data, self._order, start, start + stride) for start, data in self._feed(stride)
            )
        )
        totals = {name: sum(float(part[name].sum(dtype=np.float64)) for part in parts) for name in SUMS}
        return {
            'loss': totals['loss'] / totals['count'],
            'accuracy': totals['correct'] / totals['count'],
        }

    def outputs(self, run: Callable, variables: Any) -> np.ndarray:
        """Returns logits or features, float32[n, d] in the split's order, by `run` of compile_predict.

        Raises NonFiniteLoss where they are not finite.
        """
        batches = self._fetched(run(variables, data, self._order, row) for row, data in self._feed(1))
        rows = np.concatenate(list(batches))[: self._loader.size]
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise NonFiniteLoss(
                f'the model has no finite outputs for {(~finite).sum():,} of {len(rows):,} images, first '
                f'{self._loader.ids[finite.argmin()]}: the weights have diverged, or the images are damaged.'
            )
        return rows

    def _fetched(self, results: Iterator[Any]) -> Iterator[Any]:
        """Yields each result as NumPy arrays, fetched while the next one is computed."""
        waiting = next(results)
        for running in results:
            yield self._execution.fetch(waiting)
            waiting = running
        yield self._execution.fetch(waiting)

    def _feed(self, stride: int) -> Iterator[tuple[int, Any]]:
        """Yields every `stride`-th row of the order and what its images are gathered from."""
        if self._resident:
            yield from ((row, self._data) for row in range(0, self._rows, stride))
            return
        batches = self._loader.evaluation_batches(self._batch_size, part=self._execution.part)
        with contextlib.closing(StreamingFeed(self._execution, batches)) as feed:
            yield from ((row, feed.take(None)) for row in range(self._rows))


def evaluate(
    workdir: Path,
    *,
    checkpoint: str = 'best',
    split: str | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    predictions: Path | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> dict:
    """Evaluates a checkpoint and writes `evaluations/<checkpoint>-<dataset>-<split>.json` and two plots.

    Args:
      workdir: of a run.
      checkpoint: best, last, best_verification, or a step.
      split: train, val or test as the run used them, or a split of the dataset; test by default, or val
        where the run had no test.
      dataset: another one with the same classes; the run's by default.
      data_dir: where the datasets lie; where they lay in training by default.
      predictions: CSV file to write: id, label (-1: unknown), predicted, confidence.
      devices: to run on; all by default.

    Returns:
      What training.evaluation_metrics.summarize gives (of unlabelled images only their `count`), and which
      checkpoint and data it is about; of `best` also what chose it, `selected_on`, as in results.json.

    Raises:
      CheckpointError: there is no such checkpoint, or it is damaged.
      NonFiniteLoss: the outputs of the model are not finite.
      DataError: the dataset cannot be loaded or has other classes, or `predictions` not be written.
    """
    if predictions is not None:
        check_output('predictions', predictions)
    experiment, variables, step = restore(saved_config(workdir, data_dir), workdir, checkpoint, devices)
    config = experiment.config.dataset
    if split is None:
        split = default_split(config) if dataset in (None, config.name) else 'test'
    dataset = dataset or config.name
    loader = find_loader(experiment, dataset, split, labelled=predictions is None)
    run = experiment.execution.compile_predict(experiment.predict_step())
    logits = Evaluator(experiment, loader).outputs(run, variables)
    labels, names = loader.labels, experiment.dataset.class_names
    if predictions is not None and experiment.execution.is_main:
        _write_predictions(predictions, loader.ids, labels, logits)
    result = {'checkpoint': checkpoint, 'step': step, 'dataset': dataset, 'split': split}
    if checkpoint == 'best':
        result['selected_on'] = selection_split(experiment.config) or 'last epoch'
    if (labels < 0).any():
        return result | {'count': len(labels)}
    result |= {'class_names': names, **summarize(logits, labels)}
    if not experiment.execution.is_main:
        return result
    stem = f'{checkpoint}-{dataset.replace("/", "_")}-{split}'
    source = Path(config.folder).name if config.folder and dataset == config.name else dataset
    title = f'{workdir.name}, {checkpoint} (step {step:,}), {source} {split}'
    if result.get('selected_on') == 'test':
        title += plots.CHOSEN_ON_TEST
    with if_writable(workdir):
        write_json(workdir / 'evaluations' / f'{stem}.json', result)
        if result['confusion_matrix']:
            file = workdir / 'plots' / f'confusion_matrix-{stem}.png'
            plots.confusion_matrix(np.array(result['confusion_matrix']), names, file, title=title)
        plots.reliability_diagram(
            result['calibration_bins'],
            workdir / 'plots' / f'reliability-{stem}.png',
            title=title,
            calibration_error=result['expected_calibration_error'],
        )
    return result


def check_output(flag: str, path: Path) -> None:
    """Raises DataError, naming `flag`, where process 0 could not write a file to `path` at the end."""
    if jax.process_index():
        return
    try:
        there = path.exists() or path.is_symlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('a'):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise DataError(f'--{flag}={path}: cannot be written ({error.strerror}).') from error


def saved_config(workdir: Path, data_dir: str | None = None) -> ConfigDict:
    """Returns the config of a run, and its data_dir if given. Raises CheckpointError where there is none."""
    saved = workdir / 'config.json'
    if not saved.exists():
        raise CheckpointError(f'{workdir} holds no run: there is no {saved}. Pass the --workdir of train.py.')
    try:
        config = ConfigDict(completed(json.loads(saved.read_text())))
    except ValueError as error:
        raise CheckpointError(
            f'{saved} is damaged ({error}): delete it and run train.py there again, which writes it anew.'
        ) from error
    if data_dir is not None:  # another machine may be meant
        config.dataset.update(data_dir=data_dir, manual_dir='', cache_dir='')
        if config.dataset.folder and not Path(config.dataset.folder).exists():
            config.dataset.folder = ''  # what was prepared from it will do
    return config


def restore(
    config: ConfigDict, workdir: Path, checkpoint: str, devices: Sequence[jax.Device] | None
) -> tuple[Experiment, Any, int]:
    """Returns the experiment of a run, and its checkpoint's variables (on the devices) and step."""
    if wanted := RULES['model.name'](config.model.name):
        raise ConfigError(f'config.model.name={config.model.name}: must be {wanted}')
    devices = devices or jax.devices()
    config.model.convolution = config.dataset.loader = 'auto'
    config.batch_size += -config.batch_size % (len(devices) * config.optimizer.accumulation_steps)
    config.verification.pairs = ''  # those of training are not needed
    with contextlib.closing(Checkpoints(workdir / 'checkpoints', read_only=True)) as checkpoints:
        name, step = _find(checkpoints, checkpoint)
        # It needs no image of the training set.
        trained_on = sources.Dataset.described(checkpoints.metadata(name, step)['dataset'])
        experiment = create_experiment(resolve(config, devices), devices, trained_on)
        with jax.default_device(experiment.execution.own_devices[0]):
            restored = restore_variables(experiment, checkpoints, name, step)
        variables = experiment.execution.replicate(restored)
    return experiment, variables, step


def restore_variables(experiment: Experiment, checkpoints: Checkpoints, name: str, step: int) -> Any:
    """Returns what evaluation needs of a checkpoint: parameters and statistics, averaged where they are."""
    state = experiment.abstract_state()
    if name != 'last':
        return checkpoints.restore(name, step, jax.eval_shape(lambda s: s.variables, state))
    return checkpoints.restore(name, step, state).variables


def check_classes(then: Sequence[str], dataset: sources.Dataset) -> None:
    """Raises CheckpointError unless the classes are still those of training, in their order."""
    now = dataset.class_names
    for number, (old, new) in enumerate(zip_longest(then, now, fillvalue='none')):
        if old != new:
            raise CheckpointError(
                f'{dataset.name} has other classes than when this run was trained ({len(now):,}, then '
                f'{len(then):,}; number {number} is {new}, was {old}). Give the classes their old names '
                'back, or train on the new ones in another --workdir.'
            )


def _find(checkpoints: Checkpoints, checkpoint: str) -> tuple[str, int]:
    """Returns folder and step of what --checkpoint names."""
    kept = {name: checkpoints.steps(name) for name in KEPT}
    if kept.get(checkpoint):
        return checkpoint, kept[checkpoint][-1]
    for name, steps in kept.items():
        if checkpoint.isdecimal() and int(checkpoint) in steps:
            return name, int(checkpoint)
    listed = '; '.join(f'{name}: step {", ".join(map(str, steps))}' for name, steps in kept.items() if steps)
    raise CheckpointError(
        f'{checkpoints.directory} holds no checkpoint {checkpoint!r}; there is {listed or "none at all"}.'
    )


def default_split(config: ConfigDict) -> str:
    """Returns test, or val where `config.dataset` has no test. Raises DataError where it has neither."""
    if not config.test_split and not (config.validation or config.validation_split):
        raise DataError('This run has neither validation nor test images: name a --split of the dataset.')
    return 'test' if config.test_split else 'val'


def find_loader(
    experiment: Experiment, dataset: str, split: str, *, labelled: bool = True
) -> Resident | Streaming:
    """Returns a split of the run's dataset or of another one. Raises DataError where it does not fit."""
    trained_on, config = experiment.dataset, experiment.config.dataset.copy_and_resolve_references()
    own = dataset == config.name
    if not own:
        config.update(name=dataset, folder='', train_split='train', validation=0, validation_split='')
    config.test_split = (config.test_split if own else '') or 'test'
    config.validation_split = config.validation_split or 'val'  # the dataset's, where none was held out
    stored, check = stored_split(config, split), functools.partial(_check_dataset, experiment, dataset)
    loaded = load_splits(config, (stored,), experiment.execution, check)
    held_out = own and config.validation and stored == config.train_split
    if held_out and trained_on.train_checksum not in (None, loaded.splits[stored].checksum()):
        raise DataError(
            f'{dataset} has other images in {stored} than when the run held its validation images out of '
            'them: which ones those were is not known any more. Put them back, or name another --split.'
        )
    return select_loader(config, loaded, split, labelled=labelled)


def _check_dataset(experiment: Experiment, name: str, found: sources.Dataset) -> None:
    """Raises where what `name` names has other classes than in training, or images of a wrong shape."""
    trained_on = experiment.dataset
    if name == experiment.config.dataset.name:
        check_classes(trained_on.class_names, found)
    elif found.class_names != trained_on.class_names:
        numbers = tuple(map(str, range(trained_on.num_classes)))
        # As TFDS has them in cifar10_1 and cifar10_corrupted.
        if not name.startswith(trained_on.name) or found.class_names != numbers:
            theirs, ours = (', '.join(d.class_names[:3]) for d in (found, trained_on))
            raise DataError(
                f'{name} has {found.num_classes} classes ({theirs}, …), but the model was trained on the '
                f'{trained_on.num_classes} of {trained_on.name} ({ours}, …): evaluate one with these.'
            )
        if experiment.execution.is_main:
            print(f'{name} only numbers its classes: in the order of {trained_on.name}', file=sys.stderr)
    if found.image_shape != trained_on.image_shape:
        _check_shape(experiment, found)


def _check_shape(experiment: Experiment, dataset: sources.Dataset) -> None:
    """Raises DataError where the model does not take the images of another dataset."""
    batch = {'image': jax.ShapeDtypeStruct((1, *dataset.image_shape), np.uint8)}
    try:
        jax.eval_shape(experiment.predict_step(), experiment.abstract_state().variables, batch)
    except Exception as error:  # of Flax or JAX, as the layer has it
        theirs, ours = (' x '.join(map(str, d.image_shape)) for d in (dataset, experiment.dataset))
        raise DataError(
            f'{dataset.name} has images of {theirs}, which the model, trained on {ours}, does not take.'
        ) from error


def _write_predictions(path: Path, ids: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> None:
    _, _, confidences, predicted = per_example(logits, labels)
    rows = zip(ids, labels, predicted, (f'{c:.6f}' for c in confidences), strict=True)
    write_csv(path, ('id', 'label', 'predicted', 'confidence'), rows)
