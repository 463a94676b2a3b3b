"""How well similarities tell pairs of the same person from pairs of different ones, in float64."""

import numpy as np

from training.evaluation_metrics import wilson_interval

_RATE_NAMES = ('1e-4', '5e-4', '1e-3', '5e-3', '5e-2')
FALSE_POSITIVE_RATES = tuple(map(float, _RATE_NAMES))


def summarize(
    labels: np.ndarray, scores: np.ndarray, folds: np.ndarray | None = None, *, resamples: int = 0
) -> dict:
    """Compares `scores` float[n] with `labels` bool[n], true for genuine pairs. All values are plain Python.

    There must be pairs of both kinds, also outside of each fold (see training.pairs.check_labels).

    Returns:
        pairs, genuine, impostor: counts.
        eer: fraction at which false positives and false negatives are equally frequent, on the ROC curve
            interpolated linearly (the root of `1 - x - tpr(x)`).
        auc: area under that curve.
        accuracy, threshold: the best over all thresholds, and the highest threshold that gives it: pairs
            with at least this score are taken for genuine. Chosen on these very pairs, so optimistic.
        tpr_at_fpr_1e-4, …: true positive rates on the interpolated curve. An FPR below 1 / impostor lies
            between its first two points, and says little.
        intervals: {metric: [low, high]} for each of those but the threshold: 95 % of bootstrap resamples
            (see `bootstrap`), and for eer and accuracy Wilson's interval too, since resamples of hardly any
            mistakes have none; not for other metrics without any spread. Without `resamples` not there.
        fold_accuracy, fold_accuracy_error: with `folds` [n], mean and standard error over the folds of the
            accuracy with the threshold that is best on the others (Huang et al. 2007, LFW).
        fold_accuracies: {fold: accuracy}.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    summary = {
        'pairs': len(labels),
        'genuine': int(labels.sum()),
        'impostor': int((~labels).sum()),
        **_metrics(*roc(labels, scores)[:2], labels.mean()),
        'threshold': best_threshold(labels, scores),
    }
    if resamples:
        summary['intervals'] = _intervals(labels, scores, summary, resamples)
    return summary if folds is None else summary | _fold_accuracy(labels, scores, folds)


def roc(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns false and true positive rates and their thresholds (sklearn.metrics.roc_curve)."""
    from sklearn.metrics import roc_curve

    return roc_curve(labels, scores)


def equal_error_rate(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Returns the root x of `1 - x - tpr(x)` on the interpolated ROC curve.

    Equals `brentq(lambda x: 1 - x - interp1d(fpr, tpr)(x), 0, 1)`. `fpr + tpr - 1` rises along the curve, so
    the root is where it crosses zero.
    """
    return float(np.interp(0, fpr + tpr - 1, fpr))


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Returns the highest threshold of the best accuracy; scores that equal it count as genuine."""
    fpr, tpr, thresholds = roc(labels, scores)
    correct = np.rint(tpr * labels.sum()) - np.rint(fpr * (~labels).sum())  # whole, so that ties are ties
    thresholds[0] = np.nextafter(scores.max(), np.inf)  # nothing is genuine; roc_curve says infinity
    return float(thresholds[np.argmax(correct)])


def _metrics(fpr: np.ndarray, tpr: np.ndarray, genuine: float) -> dict[str, float]:
    """Returns the metrics of a ROC curve; `genuine` is the share of genuine pairs."""
    rates = np.interp(FALSE_POSITIVE_RATES, fpr, tpr)
    return {
        'eer': equal_error_rate(fpr, tpr),
        'auc': float(np.trapezoid(tpr, fpr)),
        'accuracy': float(np.max(genuine * tpr + (1 - genuine) * (1 - fpr))),
        **{f'tpr_at_fpr_{name}': float(r) for name, r in zip(_RATE_NAMES, rates, strict=True)},
    }


def bootstrap(labels: np.ndarray, scores: np.ndarray, resamples: int) -> dict[str, list[float]]:
    """Returns {metric: [low, high]}: the middle 95 % of resampled pairs' metrics (percentile bootstrap).

    Genuine and impostor pairs are resampled apart, as their numbers are the protocol's choice. Pairs share
    images and people, which the resampling takes for independent: the intervals are rather too narrow.
    """
    generator = np.random.default_rng(0)
    # Scores are sorted once, and a resample counts how often each pair is drawn: scipy.stats.bootstrap would
    # sort each resample anew.
    order = np.argsort(-scores)
    labels, scores = labels[order], scores[order]
    ends = np.flatnonzero(np.append(np.diff(scores), -1))  # equal scores pass a threshold together
    kinds = np.flatnonzero(~labels), np.flatnonzero(labels)

    def rates(kind):
        counts = np.bincount(generator.choice(kind, len(kind)), minlength=len(labels))
        return np.append(0, counts.cumsum()[ends]) / len(kind)

    samples = [_metrics(*map(rates, kinds), labels.mean()) for _ in range(resamples)]
    return {
        name: np.quantile([sample[name] for sample in samples], (0.025, 0.975)).tolist()
        for name in samples[0]
    }


def _intervals(labels: np.ndarray, scores: np.ndarray, summary: dict, resamples: int) -> dict:
    intervals = bootstrap(labels, scores, resamples)
    intervals = {name: ends for name, ends in intervals.items() if ends[0] < ends[1]}
    for name, count in (('eer', min(summary['genuine'], summary['impostor'])), ('accuracy', len(labels))):
        ends = [*wilson_interval(summary[name], count), *intervals.get(name, ())]
        intervals[name] = [min(ends), max(ends)]
    return intervals


def _fold_accuracy(labels: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> dict:
    accuracies = {}
    for fold in np.unique(folds):
        inside = folds == fold
        threshold = best_threshold(labels[~inside], scores[~inside])
        accuracies[str(fold)] = float(np.mean((scores[inside] >= threshold) == labels[inside]))
    values = list(accuracies.values())
    return {
        'fold_accuracy': float(np.mean(values)),
        'fold_accuracy_error': float(np.std(values, ddof=1) / len(values) ** 0.5),
        'fold_accuracies': accuracies,
    }
