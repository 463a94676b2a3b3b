"""What a trained classifier achieves on a split, computed on the host in float64."""

from collections.abc import Iterator

import numpy as np

CALIBRATION_BINS = 15  # as Guo et al. 2017
ROWS_AT_ONCE = 4096  # bounds the memory of the float64 copies
MATRIX_CLASSES = 1000  # the matrix of more would be hundreds of megabytes of JSON, and a plot of dust


def summarize(logits: np.ndarray, labels: np.ndarray) -> dict:
    """Evaluates finite `logits` float32[n, classes] against `labels` int32[n]. All values are plain Python.

    Returns:
        count: n.
        loss: mean cross entropy in nats, without label smoothing.
        accuracy, top5_accuracy: fractions. Of equal logits the class of the lower index ranks first, as in
            argmax. With 5 classes or fewer there is no top5_accuracy.
        per_class_accuracy: [classes], None for a class without examples.
        expected_calibration_error: mean distance of confidence and accuracy over 15 equal bins of the
            highest probability (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
        calibration_bins: {count, confidence, accuracy}, each [15]; the means are None where count is 0.
        confusion_matrix: [classes][classes] counts; rows are true classes, columns predicted ones. None with
            more than 1,000 classes.
    """
    from sklearn.metrics import confusion_matrix

    classes = logits.shape[1]
    losses, ranks, confidences, predicted = per_example(logits, labels)
    correct = ranks == 0
    matrix = None
    if classes <= MATRIX_CLASSES:
        matrix = confusion_matrix(labels, predicted, labels=np.arange(classes)).tolist()
    per_class = np.bincount(labels[correct], minlength=classes), np.bincount(labels, minlength=classes)
    bins, calibration_error = _calibration(confidences, correct)

    summary = {
        'count': len(labels),
        'loss': float(losses.mean()),
        'accuracy': float(correct.mean()),
        'expected_calibration_error': calibration_error,
        'per_class_accuracy': _means(*per_class),
        'calibration_bins': bins,
        'confusion_matrix': matrix,
    }
    if classes > 5:
        summary['top5_accuracy'] = float((ranks < 5).mean())
    return summary


def describe_accuracy(accuracy: float, count: int) -> str:
    """Returns an accuracy over `count` images with its 95 % interval."""
    low, high = wilson_interval(accuracy, count)
    return f'{accuracy:.2%} of {count:,} images (95 % interval {100 * low:.1f} to {100 * high:.1f})'


def wilson_interval(rate: float, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a rate found in `count` trials (Wilson, 1927)."""
    from scipy.stats import binomtest

    return tuple(map(float, binomtest(round(rate * count), count).proportion_ci(method='wilson')))


def per_example(logits: np.ndarray, labels: np.ndarray) -> Iterator[np.ndarray]:
    """Returns loss (nats), rank of the true class (0: first), confidence and predicted class of each row.

    Args:
      logits: float32[n, classes].
      labels: int[n]; where it is -1, loss and rank mean nothing.

    Returns:
      An iterator, to be unpacked, of float64[n], int64[n], float64[n], int64[n] in this order.
    """
    return map(np.concatenate, zip(*_blocks(logits, labels), strict=True))


def _blocks(logits: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    for start in range(0, len(labels), ROWS_AT_ONCE):
        scores = logits[start : start + ROWS_AT_ONCE].astype(np.float64)
        label = labels[start : start + ROWS_AT_ONCE, None]
        scores -= scores.max(axis=1, keepdims=True)
        log_total = np.log(np.exp(scores).sum(axis=1))
        own = np.take_along_axis(scores, label, axis=1)
        ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < label))
        yield log_total - own[:, 0], ahead.sum(axis=1), np.exp(-log_total), scores.argmax(axis=1)


def _calibration(confidences: np.ndarray, correct: np.ndarray) -> tuple[dict, float]:
    # Bins are open below and closed above.
    bins = np.clip(np.ceil(confidences * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    counts, confidence_sums, correct_sums = (
        np.bincount(bins, weights, minlength=CALIBRATION_BINS) for weights in (None, confidences, correct)
    )
    error = np.abs(correct_sums - confidence_sums).sum() / len(bins)
    means = {'confidence': _means(confidence_sums, counts), 'accuracy': _means(correct_sums, counts)}
    return {'count': counts.tolist(), **means}, float(error)


def _means(sums: np.ndarray, counts: np.ndarray) -> list[float | None]:
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]
