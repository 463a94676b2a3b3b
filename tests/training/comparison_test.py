import json

import pytest

from configs import default
from training import CheckpointError, ConfigError, plots
from training.comparison import compare


@pytest.fixture
def figures(monkeypatch):
    saved = []
    monkeypatch.setattr(plots, 'save', lambda figure, path: saved.append(figure) or path)
    return saved


@pytest.fixture
def leave(tmp_path):
    """Leaves a run as train.py does: of a seed, with changes of its config, finished or not."""

    def make(name, seed=0, test_accuracy=None, selected_on='val', **changes):
        workdir = tmp_path / name
        workdir.mkdir()
        config = default.get_config()
        config.seed, config.epochs, config.wandb.name = seed, 2, name
        for key, value in changes.items():
            group, _, key = key.rpartition('__')
            (config[group] if group else config)[key] = value
        (workdir / 'config.json').write_text(json.dumps(config.to_dict()))
        line = {'val_loss': 1.5, 'val_accuracy': 0.4, 'seconds': 60}
        epochs = range(1, 2 if test_accuracy is None else 3)
        (workdir / 'metrics.jsonl').write_text(
            ''.join(f'{json.dumps({"epoch": epoch, **line})}\n' for epoch in epochs)
        )
        if test_accuracy is not None:
            results = {'epochs': 2, 'test_accuracy': test_accuracy, 'selected_on': selected_on}
            (workdir / 'results.json').write_text(json.dumps({**results, 'train_seconds': 100}))
        return workdir

    return make


@pytest.fixture
def said(capsys, monkeypatch, tmp_path, figures):
    """What compare prints of workdirs, as the words of its lines, without the table's frame."""
    monkeypatch.setenv('COLUMNS', '300')

    def lines(*workdirs):
        compare(workdirs, tmp_path / 'comparison.png')
        text = capsys.readouterr().out.replace(f'{tmp_path}/', '').replace('│', '')
        return [' '.join(line.split()) for line in text.splitlines()]

    return lines


def test_seeds_are_summed_up_and_others_told_apart(leave, said, figures):
    seeds = [leave(f'seed{seed}', seed, accuracy) for seed, accuracy in enumerate((0.9, 0.92, 0.94))]
    lines = said(*seeds, leave('wide', 0, 0.95, model__width=96, optimizer__name='muon'))
    assert 'seed0 and 2 more 2 92.00% +- 2.00% 0:01:40' in lines
    assert 'wide 2 95.00% 0:01:40' in lines
    start = lines.index('What differs, in this order:')
    assert lines[start + 1 :] == [
        'model.width 64 | 96',
        'optimizer.name sgd | muon',
        'curves in comparison.png',
    ]
    accuracy, loss, by_time = figures[0].axes
    assert [line.get_color() for line in accuracy.lines] == [plots.COLORS[0]] * 3 + [plots.COLORS[1]]
    assert list(accuracy.lines[0].get_ydata()) == [40, 40]
    assert list(loss.lines[3].get_ydata()) == [1.5, 1.5]
    assert list(by_time.lines[0].get_xdata()) == [1, 2]
    labels = [text.get_text().rpartition('/')[2] for text in figures[0].legends[0].get_texts()]
    assert labels == ['seed0 and 2 more', 'wide']


def test_a_run_under_way_is_not_in_a_mean(leave, said):
    lines = said(leave('a', 0, 0.9), leave('b', 1, 0.92), leave('c', 2))
    assert 'a and 1 more 2 91.00% +- 1.41% 0:01:40' in lines
    assert 'c 1 of 2' in lines
    assert 'What differs, in this order:' not in lines


def test_results_of_a_run_that_is_lengthened_do_not_count(leave, said):
    workdir = leave('a', 0, 0.9, epochs=5)
    with (workdir / 'metrics.jsonl').open('a') as file:
        file.write('{"epoch": 3, "val_loss": 1.5, "val_accuracy": 0.4, "seconds": 60}\n')
    assert 'a 3 of 5' in said(workdir)


def test_a_run_counts_once_and_one_chosen_on_test_is_marked(leave, said):
    workdir = leave('a', 0, 0.9, selected_on='test')
    lines = said(workdir / '..' / 'a', f'{workdir}/', workdir)
    assert 'a * 2 90.00% 0:01:40' in lines
    assert '* CHOSEN ON TEST, so optimistic' in lines


def test_runs_of_different_splits_are_drawn_on_what_all_have(leave, said, figures):
    workdirs = leave('a', 0, 0.9), leave('b')
    line = {'epoch': 1, 'train_loss': 1, 'train_accuracy': 0.5, 'seconds': 1}
    for workdir, more in zip(workdirs, ({'val_loss': 1, 'val_accuracy': 0.1}, {}), strict=True):
        (workdir / 'metrics.jsonl').write_text(json.dumps(line | more))
    said(*workdirs)
    assert [list(drawn.get_ydata()) for drawn in figures[0].axes[0].lines] == [[50], [50]]


def test_a_run_that_has_only_begun_is_listed(leave, said):
    workdir = leave('a')
    (workdir / 'metrics.jsonl').unlink()
    assert 'a 0 of 2' in said(workdir)


def test_what_is_no_run_is_refused_by_name(leave, tmp_path):
    plot = tmp_path / 'comparison.png'
    with pytest.raises(ConfigError, match='which runs'):
        compare([], plot)
    with pytest.raises(ConfigError, match=r'nothing holds no run: there is no .*nothing/config.json'):
        compare([tmp_path / 'nothing'], plot)
    damaged = leave('a', 0, 0.9)
    (damaged / 'results.json').write_text('{')
    with pytest.raises(CheckpointError, match=r'results.json is not JSON'):
        compare([damaged], plot)
    assert not plot.exists()
