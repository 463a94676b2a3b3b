"""A whole run, as train.py starts it."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import jax
from ml_collections import ConfigDict

from input_pipeline.locking import locked
from jax_models import summary
from training import CheckpointError, plots
from training import config as configuration
from training.advice import advise
from training.checkpoints import Checkpoints
from training.conclusion import loss_extras
from training.console import Console
from training.evaluation_metrics import describe_accuracy
from training.experiment import Experiment, augmented_images, check_training, create_experiment
from training.loop import Training
from training.processes import check_shared
from training.progress import Progress, restored_progress
from training.resolve import resolve
from training.resumption import check_same_run
from training.schedules import highest_rate, warmup_epochs
from training.tracking import Tracker, write_json
from training.unused_keys import unused_keys
from training.verification import describe


def run(config: ConfigDict, workdir: str | Path, devices: Sequence[jax.Device] | None = None) -> dict:
    """Trains what `config` describes in `workdir`, or continues there, and returns what results.json says.

    Args:
      config: as configs/default.py declares it; checked here.
      workdir: made where it is not there.
      devices: to run on; all by default.

    Raises:
      ConfigError, DataError: before anything is computed.
      CheckpointError: `workdir` holds a run with another config or other data, a damaged one, one without
        its last checkpoint, or one that another process is training.
      NonFiniteLoss, Interrupted: as training.loop.Training.run.
    """
    configuration.check(config)
    workdir, devices, console = Path(workdir).expanduser(), devices or jax.devices(), Console()
    for key, reason in unused_keys(config).items():
        console.print(f'config.{key} has no effect with {reason}')
    config = resolve(config, devices)
    if (warmup := warmup_epochs(config)) < config.schedule.warmup_epochs:
        console.print(f'warm-up shortened from {config.schedule.warmup_epochs:g} to {warmup:g} epochs')
    found = Checkpoints(workdir / 'checkpoints', read_only=True)
    if steps := found.steps('last'):
        metadata = found.metadata('last', steps[-1])
        found.close()
        check_same_run(workdir, metadata['config'], config)
        if results := _finished(workdir, restored_progress(metadata, config), config):
            if not (workdir / 'config.json').exists() and not jax.process_index():  # what evaluation reads
                write_json(workdir / 'config.json', metadata['config'])
            console.print(
                f'The run in {workdir} is finished ({results["epochs"]} epochs); use another --workdir for a '
                'new one.'
            )
            return _report(console, workdir, results)
    elif (workdir / 'results.json').exists():
        raise CheckpointError(
            f'{workdir} holds the results of a run, but not its checkpoints/last: use another --workdir, or '
            'remove results.json to train anew there.'
        )

    experiment = create_experiment(config, devices)
    check_training(experiment)
    execution = experiment.execution
    # Of several processes the first writes for all. What needs one device takes one of those in use.
    with (
        _alone(workdir) if execution.is_main else contextlib.nullcontext(),
        jax.default_device(execution.own_devices[0]),
    ):
        check_shared(workdir)
        return _report(console, workdir, _train(experiment, workdir, console))


def _train(experiment: Experiment, workdir: Path, console: Console) -> dict:
    parts = summary.modules(experiment.model, experiment.dataset.image_shape)
    _describe(console, experiment, parts, workdir)
    config, is_main = experiment.config, experiment.execution.is_main
    tracker = Tracker(workdir, config.wandb, config.to_dict(), active=is_main)
    try:
        if is_main:
            write_json(workdir / 'config.json', config.to_dict())
            tracker.log_plots(_draw_beginning(experiment, parts, workdir))
        checkpoints = Checkpoints(workdir / 'checkpoints')
        return Training(experiment, workdir, checkpoints=checkpoints, console=console, tracker=tracker).run()
    except BaseException as error:
        tracker.close(exit_code=getattr(error, 'exit_code', 1))
        raise


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """Raises CheckpointError where the workdir cannot be written to, or another process trains there."""
    lock = workdir / '.lock'
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.open('a').close()
    except OSError as error:
        raise CheckpointError(f'--workdir={workdir}: cannot be written to ({error.strerror}).') from error

    def refuse():
        raise CheckpointError(
            f'another process is training in {workdir}: wait for it, or use another --workdir.'
        )

    with locked(lock, refuse):
        yield


def _finished(workdir: Path, progress: Progress, config: ConfigDict) -> dict | None:
    """Returns the results where nothing is left to do."""
    file = workdir / 'results.json'
    if not file.exists() or not (progress.stopped or progress.epoch >= config.epochs):
        return None
    results = json.loads(file.read_text())
    return results if results['epochs'] == progress.epoch else None  # else of a shorter run


def _draw_beginning(
    experiment: Experiment, parts: list[summary.ModuleInfo], workdir: Path
) -> dict[str, Path]:
    folder = workdir / 'plots'
    images, names = augmented_images(experiment, min(32, experiment.config.batch_size))
    title = f'{workdir.name}, training images'
    sheet = plots.image_grid(images, folder / 'training_images.png', titles=names, title=title)
    names, _, counts, _ = zip(*parts, strict=True)
    bars = plots.parameters(names, counts, folder / 'parameters.png', title=f'{workdir.name}, parameters')
    return {'training_images': sheet, 'parameters': bars}


def _describe(
    console: Console, experiment: Experiment, parts: list[summary.ModuleInfo], workdir: Path
) -> None:
    config, dataset = experiment.config, experiment.dataset
    shape = dataset.image_shape
    console.print(summary.table(experiment.model, parts))
    sizes = ', '.join(f'{name} {loader.size:,}' for name, loader in experiment.loaders.items())
    console.print(
        f'{dataset.name} {dataset.version}: {sizes} images of {shape[0]} x {shape[1]} x {shape[2]}, '
        f'{dataset.num_classes} classes'
    )
    for sentence in advise(experiment):
        console.print(sentence)
    if extras := loss_extras(config):
        console.print(f'train loss is that with {extras}, val and test loss the plain cross entropy')
    if dataset.reason:
        console.print(f'{dataset.loader} loader: {dataset.reason}')
    if experiment.paired is not None:
        pairs, images = len(experiment.paired.rows), len(experiment.paired.used)
        console.print(f'{pairs:,} pairs of {images:,} images in {config.verification.split}')
    console.print(
        f'{experiment.execution.name}, {config.parallel}, '
        f'{config.precision}; {experiment.steps} steps of {config.batch_size} images an epoch; in {workdir}'
    )
    if config.optimizer.scale_with_batch != 'none':
        console.print(
            f'learning rate {config.optimizer.learning_rate:g} for batches of '
            f'{config.optimizer.reference_batch}, scaled to {highest_rate(config):g} '
            f'({config.optimizer.scale_with_batch})'
        )


def _report(console: Console, workdir: Path, results: dict) -> dict:
    console.print()
    if 'val_accuracy' in results:
        console.print(
            f'validation accuracy  {describe_accuracy(results["val_accuracy"], results["val_count"])}'
        )
    if 'test_accuracy' in results:
        loss = results['test_loss']
        accuracy = describe_accuracy(results['test_accuracy'], results['test_count'])
        console.print(f'test accuracy        {accuracy}, loss {loss:.4f}')
    elif 'val_accuracy' not in results:
        console.print('neither validation nor test images: nothing was evaluated')
    choice = {'val': 'chosen on validation', 'test': 'CHOSEN ON TEST, so optimistic'}
    console.print(
        f'from epoch           {results["best_epoch"]} of {results["epochs"]}, '
        + choice.get(results['selected_on'], 'the last')
    )
    if 'last_verification' in results:
        for name, epoch in (('last', results['epochs']), ('best', results['best_verification_epoch'])):
            label = f'pairs, epoch {epoch}'
            console.print(f'{label:<20} {describe(results[f"{name}_verification"])}  ({name})')
    console.print(f'parameters           {results["parameters"]:,}')
    seconds = results['train_seconds']
    long = f'{timedelta(seconds=round(seconds))}, ' if seconds >= 120 else ''
    console.print(f'training             {long}{seconds:,.1f} s on {results["device"]}')
    console.print(f'plots                {workdir / "plots"}')
    return results
