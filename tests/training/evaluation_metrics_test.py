import numpy as np
import pytest
from sklearn import metrics

from training import evaluation_metrics
from training.evaluation_metrics import describe_accuracy, summarize


def random_logits(count, classes, seed=0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, classes)).astype(np.float32) * 2
    return logits, generator.integers(0, classes, count, dtype=np.int32)


def test_agrees_with_scikit_learn(monkeypatch):
    monkeypatch.setattr(evaluation_metrics, 'ROWS_AT_ONCE', 64)  # 300 rows: the last part is smaller
    logits, labels = random_logits(300, 9)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    summary = summarize(logits, labels)
    assert summary['loss'] == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(9)))
    assert summary['accuracy'] == metrics.accuracy_score(labels, logits.argmax(1))
    assert summary['top5_accuracy'] == metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(9))
    recall = metrics.recall_score(labels, logits.argmax(1), average=None)
    np.testing.assert_allclose(summary['per_class_accuracy'], recall)


def test_calibration_error_of_hand_made_bins():
    # Confidence .8: four of five are right, so the bin is calibrated. Confidence .6: none is right.
    logits = np.log([[0.8, 0.2]] * 5 + [[0.6, 0.4]] * 5).astype(np.float32)
    summary = summarize(logits, np.array([0, 0, 0, 0, 1] + [1] * 5))
    assert summary['expected_calibration_error'] == pytest.approx(0.5 * 0.6, abs=1e-6)
    assert sorted(summary['calibration_bins']['count'])[-3:] == [0, 5, 5]


def test_ties_rank_the_lower_index_first():
    summary = summarize(np.zeros((7, 7), np.float32), np.arange(7))
    assert summary['accuracy'] == pytest.approx(1 / 7)
    assert summary['top5_accuracy'] == pytest.approx(5 / 7)
    assert summary['loss'] == pytest.approx(np.log(7))


def test_class_without_examples_has_no_accuracy():
    summary = summarize(np.eye(3, dtype=np.float32)[[0, 1, 1]], np.array([0, 1, 0]))
    assert summary['per_class_accuracy'] == [0.5, 1.0, None]
    assert summary['confusion_matrix'] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert 'top5_accuracy' not in summary


def test_large_logits_do_not_overflow():
    summary = summarize(np.array([[3e38, -3e38], [0, 1e4]], np.float32), np.array([0, 0]))
    assert summary['loss'] == pytest.approx(5e3)


def test_thousands_of_classes_have_no_matrix():
    logits = np.zeros((3, 2000), np.float32)
    logits[[0, 1, 2], [5, 7, 1999]] = 1
    summary = summarize(logits, np.array([5, 8, 1999]))
    assert summary['confusion_matrix'] is None
    assert [summary['per_class_accuracy'][label] for label in (5, 8, 9)] == [1, 0, None]


def test_accuracy_has_wilsons_interval():
    low, high = (
        100
        * (
            np.array([55, 55]) / 100
            + 1.96**2 / 200
            + np.array([-1, 1]) * 1.96 * np.sqrt(0.55 * 0.45 / 100 + 1.96**2 / 40000)
        )
        / (1 + 1.96**2 / 100)
    )
    assert describe_accuracy(0.55, 100) == f'55.00% of 100 images (95 % interval {low:.1f} to {high:.1f})'
