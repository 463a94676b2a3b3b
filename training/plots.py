"""Plots of a run, as one would put them into a report. Each is written at once and its path returned."""

import functools
import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from input_pipeline.writing import written

# Okabe and Ito's colours, told apart with any colour vision.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
SPLITS = {
    'train': ('train', COLORS[0]),
    'val': ('validation', COLORS[1]),
    'test': ('test', COLORS[2]),
}
CHOSEN_ON_TEST = ', CHOSEN ON TEST'  # in titles
GREY = '#666666'
DASHED = {'color': GREY, 'linewidth': 1, 'linestyle': (0, (4, 3)), 'zorder': 1.5}
DPI = 150
# With letters that matplotlib's own font lacks; which of them there are depends on the machine.
_OTHER_FONTS = (
    *('Noto Sans CJK SC', 'Noto Sans CJK JP', 'WenQuanYi Zen Hei', 'Microsoft YaHei', 'Malgun Gothic'),
    *('Hiragino Sans', 'Arial Unicode MS', 'Noto Sans Devanagari', 'Noto Sans Thai', 'Nirmala UI', 'Tahoma'),
)


@functools.cache
def _style() -> dict[str, Any]:
    logging.getLogger('matplotlib.font_manager').setLevel(logging.ERROR)  # some fonts have one weight only
    return {
        'font.family': ['DejaVu Sans', *filter(get_font_names().__contains__, _OTHER_FONTS)],
        'font.size': 10,
        'axes.titlesize': 10,
        'axes.titlelocation': 'left',
        'figure.titlesize': 12,
        'figure.titleweight': 'bold',
        'axes.spines.top': False,
        'axes.spines.right': False,
        'axes.edgecolor': GREY,
        'axes.axisbelow': True,
        'grid.color': '#E5E5E5',
        'lines.linewidth': 1.6,
        'lines.markersize': 3.5,
        'legend.frameon': False,
        'figure.constrained_layout.h_pad': 0.08,  # inches
        'figure.constrained_layout.w_pad': 0.08,
        'text.parse_math': False,  # a class or a run may be called a$b
    }


def styled(draw: Callable[..., Path]) -> Callable[..., Path]:
    """Has a function draw in the style of all plots."""

    @functools.wraps(draw)
    def drawing(*args, **keys):
        with matplotlib.rc_context(_style()):
            return draw(*args, **keys)

    return drawing


def new_figure(title: str, width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches, with its title."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout='constrained')
    figure.suptitle(title, x=0.1 / width, ha='left')
    return figure


@styled
def learning_curves(
    records: Sequence[Mapping],
    path: Path,
    *,
    title: str,
    best_epoch: int | None = None,
    selected_on: str | None = None,
    train_loss: str = '',
) -> Path:
    """Draws accuracy and loss of each epoch.

    Args:
        records: the objects of metrics.jsonl. Splits without values are left out, None and NaN leave gaps.
        best_epoch: marked, with its values.
        selected_on: what chose the best epoch, val or test, for the label.
        train_loss: what the loss on train has that the others have not, such as 'label smoothing'.
    """
    figure = new_figure(title, 10, 4.3)
    accuracy, loss = figure.subplots(1, 2)
    nats = 'loss (nats)' + (f', on train with {train_loss}' if train_loss else '')
    nats = textwrap.fill(nats, 42)  # as much as the axis is high
    for axes, metric, name in ((accuracy, 'accuracy', 'accuracy (%)'), (loss, 'loss', nats)):
        _curves(axes, records, metric, best_epoch)
        axes.set(xlabel='epoch', ylabel=name)
    handles, labels = accuracy.get_legend_handles_labels()
    if best_epoch is not None:
        reason = '' if selected_on is None else f', chosen on {SPLITS[selected_on][0]}'
        line, _ = [axes.axvline(best_epoch, **DASHED) for axes in (accuracy, loss)]
        handles, labels = [*handles, line], [*labels, f'best epoch: {best_epoch}{reason}']
    if handles:
        figure.legend(handles, labels, loc='outside lower center', ncols=len(handles))
    return save(figure, path)


def _curves(axes: Axes, records: Sequence[Mapping], metric: str, best_epoch: int | None) -> None:
    epochs = [record['epoch'] for record in records]
    scale = 100 if metric == 'accuracy' else 1
    best = []
    for split, (label, color) in SPLITS.items():
        values = np.array([record.get(f'{split}_{metric}') for record in records], float) * scale  # None: NaN
        if not np.isfinite(values).any():
            continue
        width = {} if len(epochs) <= 300 else {'linewidth': 0.7}
        axes.plot(epochs, values, color=color, label=label, marker=marker(epochs), **width)
        if best_epoch in epochs and np.isfinite(value := values[epochs.index(best_epoch)]):
            axes.plot(best_epoch, value, 'o', color=color, markersize=8, fillstyle='none', clip_on=False)
            best.append(f'{label} {value:.2f} %' if metric == 'accuracy' else f'{label} {value:.3f}')
    if best:
        axes.set_title(f'epoch {best_epoch}: ' + ', '.join(best), color=GREY)
    epoch_axis(axes, epochs)


def marker(points: Sequence[float]) -> str | None:
    """Returns the marker of a curve: few points are to be seen as such."""
    return 'o' if len(points) <= 30 else None


def epoch_axis(axes: Axes, epochs: Sequence[float]) -> None:
    """Draws a grid, and whole epochs below it."""
    axes.grid(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(set(epochs)) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)


@styled
def learning_rate(epochs: Sequence[float], rates: Sequence[float], path: Path, *, title: str) -> Path:
    """Draws the learning rates float[n] over the (fractional) epochs float[n] at which they hold."""
    figure = new_figure(title, 6.5, 3.8)
    axes = figure.subplots()
    axes.plot(epochs, rates, color=SPLITS['train'][1], marker=marker(epochs))
    whole = (0, int(epochs[-1]) + 1)
    axes.set(xlabel='epochs done', ylabel='learning rate', xlim=whole, ylim=(0, None))
    axes.ticklabel_format(axis='y', scilimits=(-3, 3))
    epoch_axis(axes, whole)
    return save(figure, path)


@styled
def parameters(names: Sequence[str], counts: Sequence[int], path: Path, *, title: str) -> Path:
    """Draws the parameters of each module, int[n], as bars from top to bottom."""
    figure = new_figure(title, 6.5, 1.3 + 0.24 * len(names))
    axes = figure.subplots()
    axes.set_title(f'{sum(counts):,} parameters', color=GREY)
    bars = axes.barh(range(len(names)), counts, color=SPLITS['train'][1])
    axes.bar_label(bars, [f'{count:,}' for count in counts], padding=4, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel='parameters', xlim=(0, 1.18 * max(counts)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.tick_params(axis='y', length=0)
    return save(figure, path)


@styled
def image_grid(
    images: np.ndarray, path: Path, *, title: str, titles: Sequence[str], columns: int = 8
) -> Path:
    """Shows images, uint8 or float32 in [0, 1], [n, height, width, 1, 3 or 4], each with its title below.

    Small images are enlarged by whole factors, so that every pixel of theirs is a square, and lie further
    apart where their titles need it.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        images = np.round(np.clip(np.nan_to_num(images), 0, 1) * 255).astype(np.uint8)
    count, height, width, _ = images.shape
    images = np.broadcast_to(images[..., :3], (count, height, width, 3))  # without alpha
    factor = max(1, 136 // max(height, width))
    height, width = height * factor, width * factor
    columns = min(columns, count)
    gap, text, header = 10, 26, 56  # pixels
    cell = max(width, min(11 * max(map(len, titles)), 160))
    rows = -(-count // columns)
    canvas_height = header + rows * (height + text + gap)
    canvas_width = max(gap + columns * (cell + gap), 15 * len(title) + 2 * gap)
    canvas = np.full((canvas_height, canvas_width, 3), 255, np.uint8)
    figure = Figure(figsize=(canvas_width / DPI, canvas_height / DPI), dpi=DPI)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = header + row * (height + text + gap), gap + column * (cell + gap) + (cell - width) // 2
        canvas[top : top + height, left : left + width] = image.repeat(factor, 0).repeat(factor, 1)
        figure.text(
            left + width / 2,
            canvas_height - top - height - 5,
            _shortened(titles[index], cell // 11),
            transform=None,  # in pixels
            ha='center',
            va='top',
            fontsize=8,
        )
    figure.figimage(canvas)
    figure.text(gap, canvas_height - 14, title, transform=None, va='top', fontsize=12, weight='bold')
    return save(figure, path)


@styled
def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str], path: Path, *, title: str) -> Path:
    """Draws counts int[classes, classes] (rows true, columns predicted) as per cent of each true class.

    Up to 20 classes the cells carry numbers; with more, the most frequent confusions are listed instead.
    """
    matrix = np.asarray(matrix)
    count = len(matrix)
    totals = matrix.sum(axis=1, keepdims=True)
    percent = np.where(totals, 100 * matrix / np.maximum(totals, 1), np.nan)
    small = count <= 20
    side = max(4.5, 2.4 + 0.52 * count)  # inches
    size = (side + 1.2, side) if small else (8.5, 8.7)
    figure = new_figure(title, *size)
    axes = figure.subplots()
    correct, total = matrix.diagonal().sum(), matrix.sum()
    axes.set_title(f'{100 * correct / max(total, 1):.2f} % of {total:,} images correct', color=GREY)
    # The square root makes confusions of a few per cent visible beside a diagonal near 100.
    norm = PowerNorm(0.5, 0, 100)
    colors = matplotlib.colormaps['Blues'].with_extremes(bad='#EEEEEE')
    image = axes.imshow(percent, cmap=colors, norm=norm, interpolation='nearest')
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label('images of the true class (%)')
    bar.outline.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0 if small else 2, labelsize=10 if small else 8)
    ticks = np.arange(0, count, -(-count // 20))
    names = [_shortened(class_names[tick], 18) for tick in ticks]
    axes.set_xticks(ticks, names, rotation=45, ha='right', rotation_mode='anchor')
    axes.set_yticks(ticks, names)
    axes.set(xlabel='predicted class', ylabel='true class')
    if small:
        for row in np.flatnonzero(totals == 0):
            axes.text((count - 1) / 2, row, 'no images', ha='center', va='center', fontsize=8, color=GREY)
        for row, column in np.argwhere(matrix):
            value = percent[row, column]
            color = 'white' if norm(value) > 0.6 else 'black'
            label = f'{value:.1f}' if value < 99.95 else '100'
            axes.text(column, row, label, ha='center', va='center', fontsize=8, color=color)
    else:
        figure.supxlabel(_confusions(percent, class_names), x=0.01, ha='left', fontsize=9)
    return save(figure, path)


def _confusions(percent: np.ndarray, class_names: Sequence[str]) -> str:
    errors = np.nan_to_num(percent * (1 - np.eye(len(percent))))
    worst = [np.unravel_index(index, errors.shape) for index in np.argsort(-errors, axis=None)[:5]]
    lines = [
        f'{errors[true, predicted]:.0f} % of {class_names[true]} taken for {class_names[predicted]}'
        for true, predicted in worst
        if errors[true, predicted]
    ]
    return 'Most frequent confusions:\n' + '\n'.join(lines)


@styled
def reliability_diagram(bins: Mapping, path: Path, *, title: str, calibration_error: float) -> Path:
    """Draws accuracy against confidence (Guo et al. 2017).

    Args:
        bins: `calibration_bins` of evaluation_metrics.summarize.
        calibration_error: its `expected_calibration_error`, a fraction.
    """
    counts = np.asarray(bins['count'])
    width = 1 / len(counts)
    centers = (np.arange(len(counts)) + 0.5) * width
    confidence, accuracy = (np.array(bins[name], float) for name in ('confidence', 'accuracy'))  # None: NaN
    figure = new_figure(title, 5, 5.2)
    axes, shares = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.set_title(f'expected calibration error {100 * calibration_error:.2f} %', color=GREY)
    axes.bar(centers, accuracy, width * 0.92, color='#A6D4F2')
    axes.plot(confidence, accuracy, 'o', color=SPLITS['train'][1], label='measured', clip_on=False)
    axes.plot([0, 1], [0, 1], label='perfectly calibrated', **DASHED)
    figure.legend(loc='outside lower center', ncols=2)
    axes.set(ylabel='accuracy (%)', xlim=(0, 1), ylim=(0, 1))
    shares.bar(centers, counts / counts.sum(), width * 0.92, color='#BBBBBB')
    shares.set(xlabel='confidence (%)', ylabel='images (%)')
    for axis in (axes.yaxis, axes.xaxis, shares.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=''))
    return save(figure, path)


@styled
def distortions(
    accuracies: Mapping[str, Sequence[float]], path: Path, *, title: str, clean: float | None = None
) -> Path:
    """Draws accuracies of each distortion by severity, fractions, from the hardest to the easiest."""
    ordered = sorted(accuracies.items(), key=lambda item: np.mean(item[1]))
    names, percent = [name for name, _ in ordered], 100 * np.array([values for _, values in ordered])
    figure = new_figure(textwrap.fill(title, 60), 6.5, 1.7 + 0.3 * len(names))
    axes = figure.subplots()
    undistorted = '' if clean is None else f', without distortion {100 * clean:.2f}'
    axes.set_title(f'accuracy (%): mean {percent.mean():.2f}{undistorted}', color=GREY)
    values = np.column_stack([percent, percent.mean(1)])
    axes.imshow(values, cmap='Blues', vmin=0, vmax=100, aspect='auto', interpolation='nearest')
    for (row, column), value in np.ndenumerate(values):
        color = 'white' if value > 60 else 'black'
        axes.text(column, row, f'{value:.1f}', ha='center', va='center', fontsize=8, color=color)
    axes.axvline(len(percent[0]) - 0.5, color='white', linewidth=3)
    axes.set_xticks(range(len(values[0])), [*range(1, len(values[0])), 'mean'])
    axes.set_yticks(range(len(names)), [_shortened(name, 24) for name in names])
    axes.set(xlabel='severity')
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return save(figure, path)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + '…'


def save(figure: Figure, path: Path) -> Path:
    """Writes a PNG at once or not at all, and returns its path."""
    path = Path(path)
    with written(path) as file:
        figure.savefig(file, format='png')
    return path
