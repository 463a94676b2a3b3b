import numpy as np
import pytest
from matplotlib.image import imread

from training import plots


def records(count, **changes):
    metrics = {'train_loss': 1.0, 'train_accuracy': 0.5, 'val_loss': 1.5, 'val_accuracy': 0.4} | changes
    return [{'epoch': epoch} | metrics for epoch in range(1, count + 1)]


@pytest.fixture
def figure(monkeypatch):
    """The figures that are saved, in a list."""
    saved, save = [], plots.save
    monkeypatch.setattr(plots, 'save', lambda figure, path: saved.append(figure) or save(figure, path))
    return saved


@pytest.mark.parametrize(
    'history',
    [
        records(1),
        records(200),
        records(3, val_loss=None, val_accuracy=float('nan')),
        records(2, train_loss=None, train_accuracy=None, val_loss=None, val_accuracy=None),
        [{'epoch': 1, 'train_loss': 1.0, 'train_accuracy': 0.5, 'test_loss': 1.0, 'test_accuracy': 0.5}],
    ],
)
def test_learning_curves_draw_any_history(history, tmp_path):
    path = plots.learning_curves(history, tmp_path / 'new' / 'curves.png', title='run', best_epoch=1)
    assert imread(path).shape[1] == 1500
    assert [file.name for file in path.parent.iterdir()] == ['curves.png']


def test_parameters_are_labelled_bars_in_the_order_of_the_modules(tmp_path, figure):
    plots.parameters(['conv1', 'fc'], [1728, 5130], tmp_path / 'a.png', title='run')
    (axes,) = figure[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ['conv1', 'fc']
    assert axes.yaxis_inverted()
    assert {text.get_text() for text in axes.texts} == {'1,728', '5,130'}


def test_learning_curves_name_the_best_epoch(tmp_path, figure):
    history = [*records(3), {'epoch': 4, 'val_accuracy': 0.9, 'train_accuracy': 0.95}]
    plots.learning_curves(history, tmp_path / 'a.png', title='run', best_epoch=4, selected_on='val')
    accuracy, _ = figure[0].axes
    assert accuracy.get_title('left') == 'epoch 4: train 95.00 %, validation 90.00 %'
    assert figure[0].legends[0].get_texts()[-1].get_text() == 'best epoch: 4, chosen on validation'


def test_learning_curves_say_what_the_loss_on_train_has_more(tmp_path, figure):
    plots.learning_curves(records(2), tmp_path / 'a.png', title='run', train_loss='label smoothing')
    assert figure[0].axes[1].get_ylabel() == 'loss (nats), on train with label smoothing'


def test_learning_rate_is_drawn(tmp_path, figure):
    plots.learning_rate([0, 0.5, 1], [0.1, 0.05, 0], tmp_path / 'a.png', title='run')
    np.testing.assert_array_equal(figure[0].axes[0].lines[0].get_ydata(), [0.1, 0.05, 0])


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_image_grid_keeps_every_pixel(dtype, tmp_path):
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4
    images = np.stack([image] * 9) if dtype == np.uint8 else np.stack([image] * 9).astype(dtype) / 255
    path = plots.image_grid(images, tmp_path / 'a.png', title='run', titles=['$cat'] * 9)
    shown = np.round(imread(path)[..., :3] * 255)
    first = shown[56 : 56 + 136 : 17, 10 : 10 + 136 : 17]  # 17 times as large, below 56 pixels of title
    np.testing.assert_array_equal(first, np.broadcast_to(image, (8, 8, 3)))


def test_image_grid_leaves_out_alpha(tmp_path):
    image = np.full((1, 8, 8, 4), [10, 20, 30, 0], np.uint8)
    path = plots.image_grid(image, tmp_path / 'a.png', title='run', titles=['cat'])
    assert (np.round(imread(path)[60, 20, :3] * 255) == [10, 20, 30]).all()


@pytest.mark.parametrize('classes', [2, 20, 21, 100])
def test_confusion_matrix_has_numbers_where_they_fit(classes, tmp_path, figure):
    matrix = np.eye(classes, dtype=int) * 3
    matrix[0] = 0  # a class without examples
    matrix[1, 0] = 1
    plots.confusion_matrix(matrix, [f'c{i}' for i in range(classes)], tmp_path / 'a.png', title='run')
    texts = [text.get_text() for text in figure[0].axes[0].texts]
    assert texts == (['no images', '25.0', '75.0'] + ['100'] * (classes - 2) if classes <= 20 else [])
    if classes > 20:
        assert '25 % of c1 taken for c0' in figure[0].get_supxlabel()


def test_reliability_diagram_leaves_empty_bins_out(tmp_path, figure):
    bins = {'count': [0, 3], 'confidence': [None, 0.8], 'accuracy': [None, 2 / 3]}
    plots.reliability_diagram(bins, tmp_path / 'a.png', title='run', calibration_error=0.13)
    axes = figure[0].axes[0]
    assert axes.get_title('left') == 'expected calibration error 13.00 %'
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [np.nan, 2 / 3])


def test_distortions_are_listed_from_the_hardest(tmp_path, figure):
    accuracies = {'blur': [0.9, 0.7], 'noise': [0.5, 0.25]}
    plots.distortions(accuracies, tmp_path / 'a.png', title='run', clean=0.95)
    (axes,) = figure[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ['noise', 'blur']
    assert [text.get_text() for text in axes.texts] == ['50.0', '25.0', '37.5', '90.0', '70.0', '80.0']
    assert axes.get_title('left') == 'accuracy (%): mean 58.75, without distortion 95.00'
