"""What remains of a run at its end: results and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jax_models.summary import parameter_count
from training import plots
from training.checkpoints import Checkpoints
from training.evaluation import Evaluator, restore_variables
from training.evaluation_metrics import MATRIX_CLASSES, summarize
from training.experiment import Experiment, versions
from training.progress import Progress
from training.resolve import selection_split
from training.schedules import applied_rates
from training.verification import Verifier


def conclude(
    experiment: Experiment,
    checkpoints: Checkpoints,
    progress: Progress,
    records: Sequence[dict],
    workdir: Path,
    *,
    last_variables: Any,
    evaluators: Mapping[str, Evaluator],
    verifier: Verifier | None,
) -> tuple[dict, dict[str, Path]]:
    """Evaluates the best checkpoint on test (without one on val) and the pairs, and draws in process 0.

    Args:
      records: the objects of metrics.jsonl.
      last_variables: those of the last epoch, on the devices.
      evaluators: by split; those there are.
      verifier: of the pairs, where the config names any.

    Returns:
      What results.json says, and {name: path} of the plots.
    """
    best_variables = _restore(experiment, checkpoints, 'best', progress.best_epoch)
    split = next((name for name in ('test', 'val') if name in experiment.loaders), None)
    if split == 'val' and experiment.dataset.num_classes > MATRIX_CLASSES:
        split = None  # only the matrix would be new
    final = {}
    if split:
        evaluator = evaluators.get(split) or Evaluator(experiment, experiment.loaders[split])
        run = experiment.execution.compile_predict(experiment.predict_step())
        logits = evaluator.outputs(run, experiment.execution.replicate(best_variables))
        final = summarize(logits, experiment.loaders[split].labels)
    best, last = records[progress.best_epoch - 1], records[-1]
    results = {
        **({f'test_{name}': final[name] for name in ('accuracy', 'loss')} if split == 'test' else {}),
        **{name: value for name, value in best.items() if name.startswith('val_')},
        **{f'{name}_count': loader.size for name, loader in experiment.loaders.items()},
        'selected_on': best['selected_on'],
        'best_epoch': best['epoch'],
        'epochs': last['epoch'],
        'stopped_early': progress.stopped,
        **{f'last_{k}': v for k, v in last.items() if k.startswith(('train_', 'val_', 'test_'))},
        'parameters': parameter_count(best_variables['params']),
        'seed': experiment.config.seed,
        'device': experiment.execution.name,
        'precision': experiment.config.precision,
        'train_seconds': progress.train_seconds,
        'versions': versions(),
    }
    is_main = experiment.execution.is_main
    drawn = draw_curves(experiment, progress, records, workdir) if is_main else {}
    if final.get('confusion_matrix') and is_main:
        drawn['confusion_matrix'] = plots.confusion_matrix(
            np.array(final['confusion_matrix']),
            experiment.dataset.class_names,
            workdir / 'plots' / 'confusion_matrix.png',
            title=f'{workdir.name}, {plots.SPLITS[split][0]}'
            + plots.CHOSEN_ON_TEST * (best['selected_on'] == 'test'),
        )
    if verifier is None:
        return results, drawn
    best_variables = _restore(experiment, checkpoints, 'best_verification', progress.best_verification_epoch)
    of_pairs, drawn_pairs = verifier.conclude(
        records,
        {'last': last_variables, 'best': experiment.execution.replicate(best_variables)},
        progress.best_verification_epoch,
        workdir,
        resamples=experiment.config.verification.resamples,
    )
    return results | of_pairs, drawn | drawn_pairs


def _restore(experiment: Experiment, checkpoints: Checkpoints, name: str, epoch: int) -> Any:
    return restore_variables(experiment, checkpoints, name, epoch * experiment.steps)


def draw_curves(
    experiment: Experiment, progress: Progress, records: Sequence[dict], workdir: Path
) -> dict[str, Path]:
    """Draws accuracy, loss and learning rate of the epochs done; returns {name: path} of the plots."""
    folder, title = workdir / 'plots', workdir.name
    rates = applied_rates(experiment.config, experiment.steps, records)
    time_axis = np.arange(len(rates)) / experiment.steps
    selected_on = selection_split(experiment.config)
    return {
        'curves': plots.learning_curves(
            records,
            folder / 'curves.png',
            title=title,
            best_epoch=progress.best_epoch if selected_on else None,
            selected_on=selected_on,
            train_loss=loss_extras(experiment.config),
        ),
        'learning_rate': plots.learning_rate(
            time_axis, rates, folder / 'learning_rate.png', title=f'{title}, learning rate'
        ),
    }


def loss_extras(config: ConfigDict) -> str:
    """Returns what the loss on train holds beyond the cross entropy that evaluation takes."""
    extras = {
        config.loss.name: config.loss.name != 'cross_entropy',
        'label smoothing': config.loss.label_smoothing,
        'mixed images': config.augmentation.mixup_alpha or config.augmentation.cutmix_alpha,
    }
    return ', '.join(name for name, on in extras.items() if on)
