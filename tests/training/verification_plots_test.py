import numpy as np
import pytest
from matplotlib.image import imread

from input_pipeline.sources import Split
from training import plots, verification_plots
from training.pairs import PairedImages


@pytest.fixture
def figure(monkeypatch):
    """The figures that are saved, in a list."""
    saved, save = [], plots.save
    monkeypatch.setattr(plots, 'save', lambda figure, path: saved.append(figure) or save(figure, path))
    return saved


def pairs(count):
    labels = np.arange(count) % 2 == 0
    return labels, np.where(labels, 0.8, 0.1) + np.arange(count) / 1000


def paired(count):
    """Image i is grey value i; pair i is of images i and i + 1."""
    images = np.arange(count + 1, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 8, 8, 3), np.uint8)
    split = Split(images, np.full(count + 1, -1, np.int32), np.arange(count + 1).astype(str))
    rows = np.stack([np.arange(count), np.arange(count) + 1], axis=1)
    return PairedImages(split, np.arange(count + 1), rows, pairs(count)[0], None)


def test_curves_mark_the_last_and_the_best_epoch(tmp_path, figure):
    records = [
        {'epoch': epoch, 'verification_eer': eer, 'verification_accuracy': 1 - eer, 'verification_auc': 0.9}
        for epoch, eer in ((1, 0.3), (2, 0.1), (3, 0.2))
    ]
    verification_plots.curves(records, tmp_path / 'a.png', title='run', best_epoch=2)
    errors, rates = figure[0].axes
    np.testing.assert_allclose(errors.lines[0].get_ydata(), [30, 10, 20])
    assert errors.get_title('left') == 'last epoch 20.00 %, best_verification 10.00 %'
    assert rates.get_title('left') == 'last epoch 80.00 %, best_verification 90.00 %'


def test_roc_curve_of_a_single_impostor_has_an_axis(tmp_path, figure):
    labels, scores = pairs(2)
    verification_plots.roc_curve(labels, scores, tmp_path / 'a.png', title='run')
    assert figure[0].axes[0].get_xlim() == (0.5, 1)


def test_roc_curve_begins_at_one_impostor(tmp_path, figure):
    labels, scores = pairs(200)
    verification_plots.roc_curve(labels, scores, tmp_path / 'a.png', title='run')
    axes = figure[0].axes[0]
    assert axes.get_xlim() == (0.01, 1)
    assert axes.get_title('left') == '100 genuine and 100 impostor pairs, EER 0.00 %'


def test_histograms_are_shares_of_each_kind(tmp_path, figure):
    labels, scores = pairs(9)
    verification_plots.score_histograms(
        labels, scores, tmp_path / 'a.png', title='run', threshold=0.5, accuracy=1.0
    )
    bars = [sum(bar.get_height() for bar in kind) for kind in figure[0].axes[0].containers]
    assert bars == pytest.approx([1, 1])


@pytest.mark.parametrize(('count', 'shown'), [(4, 2), (20, 6), (40, 12)])
def test_sheet_shows_whole_rows_of_the_hardest_pairs(tmp_path, monkeypatch, count, shown):
    drawn = {}
    monkeypatch.setattr(plots, 'image_grid', lambda images, path, **rest: drawn.update(rest, images=images))
    _, scores = pairs(count)
    verification_plots.hardest_pairs(paired(count), scores, tmp_path / 'a.png', title='run')
    assert drawn['images'].shape == (2 * shown, 8, 18, 3)
    # First the impostor with the highest score, then the genuine pair with the lowest: the rows say which.
    impostor, genuine = drawn['images'][0], drawn['images'][shown]
    assert (impostor[0, 0, 0], impostor[0, -1, 0]) == (count - 1, count)
    assert (genuine[0, 0, 0], genuine[0, -1, 0]) == (0, 1)
    assert drawn['titles'][shown] == '= 0.800 #0'


def test_sheet_of_small_images_is_written(tmp_path):
    path = verification_plots.hardest_pairs(paired(4), pairs(4)[1], tmp_path / 'a.png', title='run')
    assert imread(path).shape[2] == 4
