"""Plots of face verification: the pairs over the epochs, and what one checkpoint makes of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from training import plots
from training.pairs import PairedImages
from training.verification_metrics import equal_error_rate, roc

BLUE, ORANGE, GREEN = (color for _, color in plots.SPLITS.values())
_PER_CENT = FuncFormatter(lambda share, _: f'{100 * share:g}')
HARDEST, COLUMNS = 12, 6  # pairs of each kind on the sheet, and in a row


@plots.styled
def curves(records: Sequence[Mapping], path: Path, *, title: str, best_epoch: int) -> Path:
    """Draws EER, accuracy and AUC of the pairs after each epoch, from the objects of metrics.jsonl."""
    figure = plots.new_figure(title, 10, 4.3)
    errors, rates = figure.subplots(1, 2)
    epochs = [record['epoch'] for record in records]
    for axes, name, label, color in (
        (errors, 'eer', 'equal error rate', ORANGE),
        (rates, 'accuracy', 'best accuracy', BLUE),
        (rates, 'auc', 'area under the ROC curve', GREEN),
    ):
        values = [100 * record[f'verification_{name}'] for record in records]
        axes.plot(epochs, values, color=color, label=label, marker=plots.marker(epochs))
    best = records[epochs.index(best_epoch)]
    for axes, name in ((errors, 'eer'), (rates, 'accuracy')):
        plots.epoch_axis(axes, epochs)
        axes.set(xlabel='epoch')
        line = axes.axvline(best_epoch, **plots.DASHED)
        last, chosen = (100 * record[f'verification_{name}'] for record in (records[-1], best))
        axes.set_title(f'last epoch {last:.2f} %, best_verification {chosen:.2f} %', color=plots.GREY)
    errors.set(ylabel='equal error rate (%)', ylim=(0, None))
    rates.set(ylabel='accuracy and AUC (%)')
    handles, labels = rates.get_legend_handles_labels()
    labels = [*labels, f'best_verification: epoch {best_epoch}, the best accuracy on these pairs']
    figure.legend([*handles, line], labels, loc='outside lower center', ncols=3)
    return plots.save(figure, path)


@plots.styled
def roc_curve(labels: np.ndarray, scores: np.ndarray, path: Path, *, title: str) -> Path:
    """Draws true over false positive rates, the latter on a logarithmic axis, with the equal error rate."""
    fpr, tpr, _ = roc(labels, scores)
    eer, lowest = equal_error_rate(fpr, tpr), min(0.5, 1 / (~labels).sum())
    figure = plots.new_figure(title, 6.5, 4.8)
    axes = figure.subplots()
    axes.set_title(
        f'{labels.sum():,} genuine and {(~labels).sum():,} impostor pairs, EER {100 * eer:.2f} %',
        color=plots.GREY,
    )
    # Rates below that of a single impostor are not measured: the axis begins there.
    rates = np.geomspace(lowest, 1, 500)
    axes.plot(fpr.clip(lowest), tpr, color=BLUE, label='measured')
    axes.plot(rates, rates, label='guessing', **plots.DASHED)
    axes.plot(rates, 1 - rates, color=ORANGE, linewidth=1, label='equal error rates')
    axes.plot(max(eer, lowest), 1 - eer, 'o', color=ORANGE, markersize=7, fillstyle='none', clip_on=False)
    axes.set(xscale='log', xlim=(lowest, 1), ylim=(0, 1.005))
    axes.set(xlabel='false positive rate (%)', ylabel='true positive rate (%)')
    if lowest > 1e-3:  # powers of ten would be too few
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(_PER_CENT)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(_PER_CENT)
    axes.grid(True)
    axes.legend(loc='best')
    return plots.save(figure, path)


@plots.styled
def score_histograms(
    labels: np.ndarray, scores: np.ndarray, path: Path, *, title: str, threshold: float, accuracy: float
) -> Path:
    """Draws how the similarities of genuine and of impostor pairs are distributed, and the threshold."""
    figure = plots.new_figure(title, 6.5, 4.2)
    axes = figure.subplots()
    axes.set_title(
        f'accuracy {100 * accuracy:.2f} % at the best threshold, {threshold:.3f}', color=plots.GREY
    )
    edges = np.histogram_bin_edges(scores, bins=min(60, max(10, round(len(scores) ** 0.5))))
    for kind, color, name in ((labels, BLUE, 'genuine'), (~labels, ORANGE, 'impostor')):
        weights = np.full(kind.sum(), 1 / kind.sum())
        axes.hist(scores[kind], edges, weights=weights, color=color, alpha=0.55, label=f'{name} pairs')
    axes.axvline(threshold, label='threshold', **plots.DASHED)
    axes.set(xlabel='cosine similarity', ylabel='pairs of the kind (%)')
    axes.yaxis.set_major_formatter(_PER_CENT)
    axes.legend(loc='best')
    return plots.save(figure, path)


def hardest_pairs(paired: PairedImages, scores: np.ndarray, path: Path, *, title: str) -> Path:
    """Shows the most similar impostors, then the least similar genuine pairs, with their similarities."""
    genuine, impostors = np.flatnonzero(paired.labels), np.flatnonzero(~paired.labels)
    count = min(HARDEST, len(genuine), len(impostors))
    count -= count % COLUMNS if count > COLUMNS else 0  # whole rows of each kind
    alike = impostors[np.argsort(-scores[impostors], kind='stable')[:count]]
    unlike = genuine[np.argsort(scores[genuine], kind='stable')[:count]]
    chosen = np.concatenate([alike, unlike])
    images = paired.images(chosen)
    sheet = np.concatenate([images[:, 0], np.full_like(images[:, 0, :, :2], 255), images[:, 1]], axis=2)
    titles = [f'{"=" if paired.labels[pair] else "≠"} {scores[pair]:.3f} #{pair}' for pair in chosen]
    return plots.image_grid(
        sheet,
        path,
        titles=titles,
        title=f'{title}: most alike impostors ≠, least alike genuine = (#row)',
        columns=min(COLUMNS, count),
    )
