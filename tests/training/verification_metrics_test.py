import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve

from training import verification_metrics
from training.verification_metrics import FALSE_POSITIVE_RATES, best_threshold, bootstrap, summarize


def drawn(seed, pairs, shift=1.0, digits=15):
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(pairs) % 3 == 0)
    return labels, np.round(generator.normal(size=pairs) + shift * labels, digits)


CASES = {
    'random': drawn(0, 1000),
    'few': drawn(1, 7),
    'tied': drawn(2, 500, digits=0),
    'uninformative': drawn(3, 500, shift=0),
    'inverted': drawn(4, 500, shift=-2),
    'all equal': (np.array([True, False, True]), np.zeros(3)),
    'perfect': (np.array([True, False, True]), np.array([0.9, 0.1, 0.8])),
    'all wrong': (np.array([True, False]), np.array([0.1, 0.9])),
}


@pytest.mark.parametrize('case', CASES)
def test_metrics_equal_the_seed_and_scikit_learn(case):
    labels, scores = CASES[case]
    fpr, tpr, _ = roc_curve(labels, scores, pos_label=1)
    curve = interp1d(fpr, tpr)
    summary = summarize(labels, scores)
    assert summary['eer'] == pytest.approx(brentq(lambda x: 1.0 - x - curve(x), 0.0, 1.0), abs=1e-11)
    assert summary['auc'] == pytest.approx(roc_auc_score(labels, scores))
    best = max(tpr * labels.sum() + (1 - fpr) * (~labels).sum()) / len(labels)
    assert summary['accuracy'] == pytest.approx(best)
    rates = [summary[name] for name in summary if name.startswith('tpr_at_fpr')]
    np.testing.assert_allclose(rates, curve(FALSE_POSITIVE_RATES))
    assert np.mean((scores >= summary['threshold']) == labels) == pytest.approx(best)


def test_perfect_and_wrong_scores_are_the_ends_of_the_scale():
    assert (summarize(*CASES['perfect'])['eer'], summarize(*CASES['perfect'])['accuracy']) == (0, 1)
    assert (summarize(*CASES['all wrong'])['eer'], summarize(*CASES['all wrong'])['accuracy']) == (1, 0.5)


@pytest.mark.parametrize('case', CASES)
def test_resampling_that_draws_each_pair_once_gives_the_metrics(case, monkeypatch):
    class EachOnce:
        def choice(self, kind, count):
            return kind

    monkeypatch.setattr(np.random, 'default_rng', lambda seed: EachOnce())
    labels, scores = CASES[case]
    summary = summarize(labels, scores)
    for name, interval in verification_metrics.bootstrap(labels, scores, 1).items():
        np.testing.assert_allclose(interval, summary[name], atol=1e-12)


def test_no_mistake_among_few_pairs_is_no_certainty():
    labels = np.arange(50) < 25
    intervals = summarize(labels, labels * 1.0, resamples=50)['intervals']
    assert intervals.keys() == {'eer', 'accuracy'}  # the others have no spread
    np.testing.assert_allclose([intervals['eer'], intervals['accuracy']], [[0, 0.133], [0.929, 1]], atol=1e-3)


def test_intervals_are_reproducible_and_cover_the_truth():
    labels, scores = CASES['random']
    summary = summarize(labels, scores, resamples=50)
    again = bootstrap(labels, scores, 50)
    assert all(
        low <= again[name][0] and again[name][1] <= high for name, (low, high) in summary['intervals'].items()
    )
    assert summary['intervals']['auc'] == again['auc']
    for name, (low, high) in summary['intervals'].items():
        assert low <= summary[name] <= high
    truth = 0.308538  # Φ(−1/2): both kinds are normal, one deviation apart
    covered = 0
    for seed in range(20):
        low, high = summarize(*drawn(seed, 300), resamples=50)['intervals']['eer']
        covered += low <= truth <= high
    assert 17 <= covered <= 20


def test_fold_thresholds_come_from_the_other_folds():
    labels, scores = drawn(5, 100)
    scores[:50] += 10  # thresholds of one half are useless in the other
    folds = np.array(['1'] * 50 + ['2'] * 50)
    summary = summarize(labels, scores, folds)
    expected = [
        np.mean((scores[inside] >= best_threshold(labels[~inside], scores[~inside])) == labels[inside])
        for inside in (folds == '1', folds == '2')
    ]
    assert list(summary['fold_accuracies'].values()) == expected
    assert summary['fold_accuracy'] == pytest.approx(np.mean(expected))
    assert summary['fold_accuracy_error'] == pytest.approx(abs(expected[0] - expected[1]) / 2)
    assert summary['accuracy'] > summary['fold_accuracy']


def test_threshold_is_the_highest_of_equally_good_ones():
    generator = np.random.default_rng(0)
    for _ in range(200):
        labels, scores = generator.permutation(np.arange(100) % 3 == 0), generator.normal(size=100)
        candidates = np.append(scores, np.nextafter(scores.max(), np.inf))
        correct = [np.sum((scores >= threshold) == labels) for threshold in candidates]
        assert best_threshold(labels, scores) == candidates[correct == np.max(correct)].max()
