"""Runs beside each other: what they reached, what distinguishes them, and their curves."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle
from pathlib import Path

import numpy as np
from rich.table import Table

from training import CheckpointError, ConfigError, plots
from training.config import completed
from training.console import Console
from training.keys import flatten
from training.tracking import if_writable, read_records

# What repeats a run, or says where things lie; runs that differ in nothing else are summed up.
REPEATS = ('seed', 'dataset.data_dir', 'dataset.manual_dir', 'dataset.cache_dir', 'checkpoint.', 'wandb.')
# Columns of the table by key of results.json.
MEASURES = {
    'val_accuracy': 'validation',
    'test_accuracy': 'test',
    'best_verification_eer': 'pairs EER',
    'parameters': 'parameters',
    'train_seconds': 'training',
}


@dataclass(frozen=True)
class Run:
    """What a workdir holds: its config's keys but for REPEATS, metrics.jsonl, and results.json at the end."""

    name: str
    config: Mapping
    records: Sequence[Mapping]
    results: Mapping | None


def compare(workdirs: Iterable[str | Path], plot: str | Path) -> None:
    """Prints what runs reached, as means over those that differ in seed alone, and draws their curves.

    Args:
      workdirs: of finished runs or others.
      plot: path of the PNG.

    Raises:
      ConfigError: no workdir is given, or one holds no run.
      CheckpointError: a file in one is not JSON.
    """
    by_place = {Path(workdir).resolve(): Path(workdir) for workdir in workdirs}
    if not by_place:
        raise ConfigError('which runs? Name their folders, such as runs/resnet18 runs/wide')
    groups, console = _grouped(map(_read, by_place.values())), Console()
    console.print(_table(groups))
    if any(_chosen_on_test(runs) for runs in groups.values()):
        console.print('* CHOSEN ON TEST, so optimistic')
    configs = [runs[0].config for runs in groups.values()]
    if keys := _differing_keys(configs):
        console.print('What differs, in this order:')
        for key in keys:
            values = ' | '.join(str(config.get(key)) for config in configs)
            console.print(f'  {key:{max(map(len, keys))}}  {values}')
    curves = {name: [run.records for run in runs if run.records] for name, runs in groups.items()}
    with if_writable(Path(plot).parent):
        console.print(f'curves in {draw(curves, Path(plot))}')


def _read(workdir: Path) -> Run:
    saved = workdir / 'config.json'
    if not saved.is_file():
        raise ConfigError(f'{workdir} holds no run: there is no {saved}')
    records, results = read_records(workdir), _json(workdir / 'results.json')
    if results and (not records or results['epochs'] != records[-1]['epoch']):
        results = None  # of a shorter run, which goes on
    config = {k: v for k, v in flatten(completed(_json(saved))).items() if not k.startswith(REPEATS)}
    return Run(str(workdir), config, records, results)


def _json(file: Path) -> dict | None:
    try:
        return json.loads(file.read_text()) if file.exists() else None
    except json.JSONDecodeError as error:
        raise CheckpointError(f'{file} is not JSON ({error}): leave this run out.') from None


def _grouped(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Returns finished runs of one config together, and those under way, by name."""
    groups = {}
    for run in runs:
        groups.setdefault((*run.config.items(), run.results is None), []).append(run)
    return {
        runs[0].name + (f' and {len(runs) - 1} more' if len(runs) > 1 else ''): runs
        for runs in groups.values()
    }


def _differing_keys(configs: Sequence[Mapping]) -> list[str]:
    keys = sorted({key for config in configs for key in config})
    return [key for key in keys if len({config.get(key) for config in configs}) > 1]


def _chosen_on_test(runs: Sequence[Run]) -> bool:
    return any(run.results and run.results['selected_on'] == 'test' for run in runs)


def _table(groups: Mapping[str, Sequence[Run]]) -> Table:
    found = {key for runs in groups.values() for run in runs for key in run.results or ()}
    measures = [key for key in MEASURES if key in found]
    table = Table()
    table.add_column('run', overflow='fold')
    for name in ('epochs', *map(MEASURES.get, measures)):
        table.add_column(name, justify='right', no_wrap=True)
    for name, runs in groups.items():
        results = [run.results for run in runs if run.results]
        cells = [_cell(key, [r[key] for r in results if r.get(key) is not None]) for key in measures]
        table.add_row(name + ' *' * _chosen_on_test(runs), _epochs(runs), *cells)
    return table


def _epochs(runs: Sequence[Run]) -> str:
    done = sorted({run.records[-1]['epoch'] if run.records else 0 for run in runs})
    text = f'{done[0]}' + (f' to {done[-1]}' if len(done) > 1 else '')
    return text if runs[0].results else f'{text} of {runs[0].config["epochs"]}'


def _cell(key: str, values: Sequence[float]) -> str:
    if not values:
        return ''
    mean = statistics.fmean(values)
    if key == 'parameters':
        return f'{mean:,.0f}'
    if key == 'train_seconds':
        return f'{timedelta(seconds=round(mean))}'
    return f'{mean:.2%}' + (f' +- {statistics.stdev(values):.2%}' if len(values) > 1 else '')


@plots.styled
def draw(curves: Mapping[str, Sequence[Sequence[Mapping]]], path: Path) -> Path:
    """Draws accuracy and loss by epoch, and accuracy by time, of runs, a colour for each name.

    Drawn is validation where all runs have it, else test or train.

    Args:
        curves: by name the runs summed up under it, each as the objects of its metrics.jsonl.
    """
    runs = [records for group in curves.values() for records in group]
    split = next(s for s in ('val', 'test', 'train') if all(f'{s}_loss' in records[-1] for records in runs))
    figure = plots.new_figure(f'{len(runs)} runs on {plots.SPLITS[split][0]}', 14, 4.3)
    styles = cycle((line, color) for line in ('-', '--', ':') for color in plots.COLORS)
    panels = figure.subplots(1, 3)
    for (name, group), (line, color) in zip(curves.items(), styles, strict=False):
        for records in group:
            epochs = [record['epoch'] for record in records]
            minutes = np.cumsum([record['seconds'] / 60 for record in records])
            accuracy, loss = (
                np.array([record.get(f'{split}_{metric}') for record in records], float)  # None: NaN
                for metric in ('accuracy', 'loss')
            )
            drawn = (epochs, 100 * accuracy), (epochs, loss), (minutes, 100 * accuracy)
            for axes, (x, y) in zip(panels, drawn, strict=True):
                axes.plot(x, y, line, color=color, label=name, marker=plots.marker(x), linewidth=1.2)
            name = None  # once in the legend
    labels = ('epoch', 'accuracy (%)'), ('epoch', 'loss (nats)'), ('minutes of training', 'accuracy (%)')
    for axes, (x, y) in zip(panels, labels, strict=True):
        axes.set(xlabel=x, ylabel=y)
        axes.grid(True)
    for axes in panels[:2]:
        plots.epoch_axis(axes, [record['epoch'] for records in runs for record in records])
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside lower center', ncols=3)
    return plots.save(figure, path)
