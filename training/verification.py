"""How alike a model finds the images of each pair: the cosine similarity of their features."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from input_pipeline import DataError
from training import pairs as pair_files
from training import verification_plots
from training.evaluation import (
    Evaluator,
    check_output,
    default_split,
    find_loader,
    restore,
    saved_config,
)
from training.experiment import Experiment, create_loader, load_splits
from training.pairs import PairedImages
from training.tracking import if_writable, write_csv, write_json
from training.verification_metrics import summarize

PER_EPOCH = ('eer', 'auc', 'accuracy')
PAIRS_AT_ONCE = 4096  # bounds the memory of their float64 features


class Verifier:
    """Compares the pairs; each image is embedded once, however many pairs name it."""

    def __init__(self, experiment: Experiment, paired: PairedImages, *, flip: bool):
        self.paired, self._is_main = paired, experiment.execution.is_main
        loader = create_loader(experiment.config.dataset, paired.split, paired.used)
        self._evaluator = Evaluator(experiment, loader)
        self._run = experiment.execution.compile_predict(experiment.feature_step(flip=flip))

    def scores(self, variables: Any) -> np.ndarray:
        """Returns the similarity of each pair, float64[pairs] from -1 to 1."""
        return cosine_similarities(self._evaluator.outputs(self._run, variables), self.paired.rows)

    def summarize(self, scores: np.ndarray, *, resamples: int = 0) -> dict:
        """Returns what verification_metrics.summarize says of labelled pairs."""
        return summarize(self.paired.labels, scores, self.paired.folds, resamples=resamples)

    def conclude(
        self,
        records: Sequence[Mapping],
        variables: Mapping[str, Any],
        best_epoch: int,
        workdir: Path,
        *,
        resamples: int,
    ) -> tuple[dict, dict[str, Path]]:
        """Returns results and plots of a finished run; the plots but for the curves are of the last epoch.

        Args:
          records: the objects of metrics.jsonl.
          variables: those of the `last` epoch and of the one with the `best` accuracy on the pairs.
          best_epoch: the latter.
        """
        results, scores = {'best_verification_epoch': best_epoch}, {}
        for name, values in variables.items():
            scores[name] = self.scores(values)
            summary = self.summarize(scores[name], resamples=resamples)
            results[f'{name}_verification'] = summary
            results |= {f'{name}_verification_{metric}': summary[metric] for metric in PER_EPOCH}
        if not self._is_main:
            return results, {}
        folder, title = workdir / 'plots', f'{workdir.name}, pairs'
        curves = verification_plots.curves(
            records, folder / 'verification.png', title=title, best_epoch=best_epoch
        )
        title = f'{title}, epoch {records[-1]["epoch"]}'
        drawn = draw(self.paired, scores['last'], results['last_verification'], folder, title=title)
        return results, {'verification': curves, **drawn}


def cosine_similarities(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns float64[pairs] of the rows int[pairs, 2] of features float32[n, d]; 0 where all are 0."""
    features = features.astype(np.float64)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    parts = [rows[start : start + PAIRS_AT_ONCE] for start in range(0, len(rows), PAIRS_AT_ONCE)]
    return np.concatenate([(features[part[:, 0]] * features[part[:, 1]]).sum(1) for part in parts])


def describe(summary: dict) -> str:
    """Returns one line, such as 'EER 9.54 % (8.10 to 11.02)  accuracy …'; in brackets the 95 % interval.

    That is left out with fewer than 20 pairs of a kind, whose resamples are too much alike.
    """
    parts, enough = [], min(summary['genuine'], summary['impostor']) >= 20
    for name, label in (('eer', 'EER'), ('accuracy', 'accuracy'), ('auc', 'AUC')):
        interval = summary.get('intervals', {}).get(name)
        between = ' ({:.2f} to {:.2f})'.format(*(100 * v for v in interval)) if interval and enough else ''
        parts.append(f'{label} {100 * summary[name]:.2f} %{between}')
    return '  '.join(parts)


def draw(
    paired: PairedImages, scores: np.ndarray, summary: dict, folder: Path, *, title: str, suffix: str = ''
) -> dict[str, Path]:
    """Draws ROC curve, histograms and hardest pairs. Returns {name: path}, <folder>/<name><suffix>.png."""
    labels = paired.labels
    paths = {name: folder / f'{name}{suffix}.png' for name in ('roc', 'similarities', 'hardest_pairs')}
    verification_plots.roc_curve(labels, scores, paths['roc'], title=title)
    verification_plots.score_histograms(
        labels,
        scores,
        paths['similarities'],
        title=title,
        threshold=summary['threshold'],
        accuracy=summary['accuracy'],
    )
    verification_plots.hardest_pairs(paired, scores, paths['hardest_pairs'], title=title)
    return paths


def verify(
    workdir: Path,
    *,
    pairs: str,
    checkpoint: str = 'best',
    split: str | None = None,
    folder: str | None = None,
    flip: bool | None = None,
    scores: Path | None = None,
    data_dir: str | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> dict:
    """Compares pairs of images by a checkpoint.

    Of labelled pairs it writes `evaluations/<checkpoint>-<pairs>.json` and three plots; their names have the
    folder's, or the split's if it is not that of training, and `flip` too.

    Args:
      workdir: of a run.
      pairs: file of pairs, labelled or not (see training.pairs.read).
      checkpoint: best, last, best_verification, or a step.
      split: that holds the images; config.verification.split of the run by default.
      folder: of images, any size, that the names are relative to; taken instead of a split.
      flip: average the features of each image and its mirror image; as in training by default.
      scores: CSV file to write: ID (row of the pair, from 0), Label (similarity).
      data_dir: where the datasets lie; where they lay in training by default.
      devices: to run on; all by default.

    Returns:
      Checkpoint, step and number of pairs, and of labelled ones what verification_metrics.summarize gives.

    Raises:
      CheckpointError: there is no such checkpoint, or it is damaged.
      NonFiniteLoss: the outputs of the model are not finite.
      DataError: the pairs or their images cannot be read, unlabelled ones are given without `scores`, or
        these cannot be written.
    """
    if scores is not None:
        check_output('scores', scores)
    config = saved_config(workdir, data_dir)
    flip = config.verification.flip if flip is None else flip
    if folder is not None and not Path(folder).is_dir():
        raise DataError(f'--folder={folder}: there is no such folder.')
    found = pair_files.read(pair_files.find_file(pairs, folder or config.dataset.folder, 'pairs'))
    if found.labels is not None:
        pair_files.check_labels(found)
    elif scores is None:
        raise DataError(
            f'{found.path}: these pairs have no labels 0 or 1; --scores=FILE.csv writes similarities.'
        )
    experiment, variables, step = restore(config, workdir, checkpoint, devices)
    image_shape, images = experiment.dataset.image_shape, folder or split or config.verification.split
    if folder is not None:
        paired = pair_files.read_images(found, Path(folder), image_shape)
    else:
        loaded = load_splits(experiment.config.dataset, (images,), experiment.execution)
        paired = pair_files.find_images(found, loaded.splits[images], images, image_shape)
    verifier = Verifier(experiment, paired, flip=flip)
    similarities = verifier.scores(variables)
    is_main = experiment.execution.is_main
    if scores is not None and is_main:
        write_csv(scores, ('ID', 'Label'), ((row, f'{value:.8f}') for row, value in enumerate(similarities)))
    result = {'checkpoint': checkpoint, 'step': step, 'file': str(found.path), 'images': images, 'flip': flip}
    if found.labels is None:
        return {**result, 'pairs': len(similarities)}
    result |= verifier.summarize(similarities, resamples=config.verification.resamples)
    if not is_main:
        return result
    own = folder is None and images == config.verification.split
    other = '' if own else f'-{Path(images).resolve().name}'
    stem = f'{checkpoint}-{found.path.stem}{other}' + ('-flip' if flip else '')
    title = f'{workdir.name}, {checkpoint} (step {step:,}), {found.path.name}'
    with if_writable(workdir):
        write_json(workdir / 'evaluations' / f'{stem}.json', result)
        draw(paired, similarities, result, workdir / 'plots', title=title, suffix=f'-{stem}')
    return result


def export_features(
    workdir: Path,
    path: Path,
    *,
    checkpoint: str = 'best',
    split: str | None = None,
    flip: bool | None = None,
    data_dir: str | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> np.ndarray:
    """Writes what a model's head sees of a split to `path`, and the ids of its images, one a line, beside it.

    Args:
      path: of the .npy file; the ids go to the same name ending in .ids.txt.
      split: by default, where the run compared pairs, their config.verification.split, else as `evaluate`;
        val is what was held out of train.
      For the others see `verify`.

    Returns:
      What is in the file: float32[n, d], not normalised.
    """
    if path.suffix != '.npy':
        raise DataError(f'--features={path}: the name of the file must end in .npy')
    check_output('features', path)
    config = saved_config(workdir, data_dir)
    if split is None:
        split = config.verification.split if config.verification.pairs else default_split(config.dataset)
    experiment, variables, _ = restore(config, workdir, checkpoint, devices)
    flip = config.verification.flip if flip is None else flip
    loader = find_loader(experiment, config.dataset.name, split, labelled=False)
    run = experiment.execution.compile_predict(experiment.feature_step(flip=flip))
    features = Evaluator(experiment, loader).outputs(run, variables)
    if not experiment.execution.is_main:
        return features
    np.save(path, features)
    path.with_suffix('.ids.txt').write_text(''.join(f'{name}\n' for name in loader.ids), encoding='utf-8')
    return features
