import json
import logging
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from types import SimpleNamespace

import jax
import pytest

from input_pipeline import DataError
from training import CheckpointError, NonFiniteLoss, conclusion, loop, plots
from training.checkpoints import Checkpoints
from training.console import Console
from training.evaluation import Evaluator, evaluate
from training.interruption import Interrupted, Interruption
from training.loop import Training
from training.parallel import Execution
from training.progress import Progress, restored_progress
from training.run import run
from training.tracking import Tracker

DEVICES = jax.devices()[:1]
LOSSES = 'train_loss', 'val_loss'


def records(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def last_steps(workdir, name='last'):
    return Checkpoints(workdir / 'checkpoints').steps(name)


@pytest.fixture
def short(light_config):
    """Two epochs of two steps, the least there is to run."""
    light_config.epochs = 2
    light_config.batch_size = 160
    light_config.dataset.drop_last = True
    return light_config


@pytest.fixture
def at_step(monkeypatch):
    """Calls an action when the given step of an epoch has been shown."""

    def at_step(epoch, step, action):
        update = Console.update

        def update_and_act(console, done, *rest):
            update(console, done, *rest)
            if (console._title, done) == (f'epoch {epoch}/3', step):
                action()

        monkeypatch.setattr(Console, 'update', update_and_act)

    return at_step


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_interrupted_run_continues_as_if_nothing_happened(
    config, finished, tmp_path, at_step, assert_same_run, monkeypatch
):
    config.checkpoint.every_epochs = 0
    workdir = tmp_path / 'finished'
    # In the middle of an epoch, before its smaller last batch, and with its last step.
    for epoch, step, saved in ((1, 2, 3), (2, 4, 11), (2, 6, 12)):
        at_step(epoch, step, terminate)
        with pytest.raises(Interrupted) as interrupted:
            run(config, workdir, DEVICES)
        assert interrupted.value.exit_code == 143
        assert last_steps(workdir)[-1] == saved
    at_step(3, 6, terminate)  # the very last step: all that remains is the end
    with pytest.raises(Interrupted):
        run(config, workdir, DEVICES)
    conclude = loop.conclude
    monkeypatch.setattr(loop, 'conclude', lambda *args, **keys: terminate())
    with pytest.raises(Interrupted):
        run(config, workdir, DEVICES)
    monkeypatch.setattr(loop, 'conclude', conclude)
    assert (last_steps(workdir)[-1], (workdir / 'results.json').exists()) == (18, False)
    run(config, workdir, DEVICES)
    assert_same_run(finished, workdir)


def test_run_interrupted_in_an_epoch_does_not_end_before_it(short, tmp_path, at_step):
    short.epochs, short.batch_size = 3, 100
    at_step(2, 1, terminate)
    with pytest.raises(Interrupted):
        run(short, tmp_path, DEVICES)
    short.epochs = 1
    with pytest.raises(CheckpointError, match=r'interrupted in epoch 2.*config.epochs=1: name 2 or more'):
        run(short, tmp_path, DEVICES)


def test_lookahead_and_plateau_continue_as_if_nothing_happened(
    light_config, tmp_path, at_step, assert_same_run
):
    config = light_config
    config.dataset.drop_last = True  # 5 steps an epoch
    config.optimizer.update({'name': 'adam', 'learning_rate': 0.01, 'lookahead_steps': 5})
    config.schedule.update({'name': 'plateau', 'plateau_patience': 0, 'plateau_threshold': 0.9})
    config.schedule.warmup_epochs = 0.0
    run(config, tmp_path / 'whole', DEVICES)
    at_step(3, 1, terminate)  # between two moves of the slow weights, after the rate fell
    with pytest.raises(Interrupted):
        run(config, tmp_path / 'parts', DEVICES)
    run(config, tmp_path / 'parts', DEVICES)
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts')
    rates = [record['learning_rate'] for record in records(tmp_path / 'parts')]
    assert rates == [0.01, 0.01, 0.001]


@pytest.mark.parametrize(('parallel', 'many_steps'), [('jit', False), ('jit', True), ('pmap', True)])
def test_nothing_is_compiled_after_the_first_epoch(
    config, finished, tmp_path, parallel, many_steps, monkeypatch, caplog, request
):
    """With many steps a dispatch, as on a GPU, too; and the course is that of one by one."""
    compiled, start_epoch, finish = [], Console.start_epoch, Training._finish
    dispatched, absorb = [], Training._absorb

    def count(console_or_training, *args, then):
        compiled.append(sum('Compiling' in message for message in caplog.messages))
        return then(console_or_training, *args)

    monkeypatch.setattr(Console, 'start_epoch', lambda *args: count(*args, then=start_epoch))
    monkeypatch.setattr(Training, '_finish', lambda *args: count(*args, then=finish))
    either = property(lambda self: many_steps, lambda self, value: None)
    monkeypatch.setattr(Execution, 'many_steps', either, raising=False)
    monkeypatch.setattr(Training, '_absorb', lambda *args: dispatched.append(args[-2:]) or absorb(*args))
    config.parallel, config.checkpoint.every_steps = parallel, 3
    if parallel == 'pmap':
        config, config.steps_per_dispatch = request.getfixturevalue('light_config'), 2
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run(config, tmp_path / 'run', DEVICES)
    start, first, *others = compiled
    assert start < first
    assert set(others) == {first}
    if parallel == 'pmap':
        assert dispatched == 3 * [(0, 2), (2, 3), (3, 5), (0, 1)]  # the last is the smaller batch
    else:
        for one, many in zip(records(finished), records(tmp_path / 'run'), strict=True):
            assert [many[k] for k in LOSSES] == pytest.approx([one[k] for k in LOSSES], rel=1e-5)


def test_a_run_continues_on_any_number_of_devices(short, tmp_path):
    short.schedule.name, short.dataset.test_split = 'constant', ''
    run(short, tmp_path / 'whole', DEVICES)
    short.epochs = 1
    run(short, tmp_path / 'parts', DEVICES)
    short.epochs, short.parallel = 2, 'pmap'
    run(short, tmp_path / 'parts', jax.devices())
    for whole, parts in zip(*(records(tmp_path / name) for name in ('whole', 'parts')), strict=True):
        assert [parts[k] for k in LOSSES] == pytest.approx([whole[k] for k in LOSSES], rel=1e-5)


@pytest.fixture
def saved(monkeypatch):
    """Collects name and step of each checkpoint that is saved."""
    saved, save = [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, 'save', lambda c, *a: saved.append(a[:2]) or save(c, *a))
    return saved


def test_steps_and_epochs_choose_checkpoints_and_without_validation_the_last_is_the_best(
    short, tmp_path, saved
):
    short.epochs, short.dataset.validation = 4, 0.0  # 8 steps an epoch
    short.checkpoint.every_epochs, short.checkpoint.every_steps = 3, 16
    results = run(short, tmp_path, DEVICES)
    assert saved == [(name, step) for step in (16, 24, 32) for name in ('best', 'last')]
    assert last_steps(tmp_path, 'best') == [24, 32]
    assert (results['selected_on'], results['best_epoch']) == ('last epoch', 4)
    assert not any(key.startswith(('val_', 'test_')) for record in records(tmp_path) for key in record)


def test_saving_does_not_count_as_training(short, tmp_path, monkeypatch):
    offset, monotonic, save = [0.0], time.monotonic, Training._save

    def slow(training, step):
        offset[0] += 1000.0
        save(training, step)

    monkeypatch.setattr(loop, 'time', SimpleNamespace(monotonic=lambda: monotonic() + offset[0]))
    monkeypatch.setattr(Training, '_save', slow)
    short.checkpoint.every_steps = 1
    results = run(short, tmp_path, DEVICES)
    assert results['train_seconds'] < 500
    assert results['wall_seconds'] > offset[0] == 4000


@pytest.mark.parametrize(('seconds', 'drawn'), [(60.0, [3]), (0.0, [1, 2, 3])])
def test_curves_are_drawn_during_training(short, tmp_path, monkeypatch, seconds, drawn):
    def draw(experiment, progress, records, workdir):
        lengths.append(len(records))
        return {}

    short.epochs, lengths = 3, []
    for module in (loop, conclusion):
        monkeypatch.setattr(module, 'draw_curves', draw)
    monkeypatch.setattr(loop, 'SECONDS_PER_DRAWING', seconds)
    run(short, tmp_path, DEVICES)
    assert lengths == drawn


def test_epochs_sooner_than_min_seconds_are_not_saved(short, tmp_path, saved):
    short.epochs, short.checkpoint.min_seconds = 3, 1000.0
    run(short, tmp_path, DEVICES)
    assert [step for name, step in saved if name == 'last'] == [6]


def test_split_smaller_than_a_batch_is_one_step(short, tmp_path):
    short.batch_size, short.dataset.drop_last = 4096, False
    results = run(short, tmp_path, DEVICES)
    assert [record['step'] for record in records(tmp_path)] == [1, 2]
    assert results['epochs'] == 2


def test_infinite_loss_names_the_step_and_keeps_the_last_good_checkpoint(short, tmp_path):
    short.optimizer.learning_rate, short.schedule.warmup_epochs = 3e38, 0.0
    short.checkpoint.every_steps = 1
    with pytest.raises(
        NonFiniteLoss, match=r'train loss .* at step 2 \(epoch 1\).* checkpoint is of step 1\.'
    ):
        run(short, tmp_path, DEVICES)
    assert last_steps(tmp_path) == [1]


def test_infinite_parameters_are_not_saved(short, tmp_path):
    short.optimizer.learning_rate, short.schedule.warmup_epochs = 3e38, 0.0
    short.checkpoint.every_steps, short.optimizer.weight_decay = 1, 100.0
    with pytest.raises(NonFiniteLoss, match=r'parameters .* at step 1 .*No checkpoint was saved yet'):
        run(short, tmp_path, DEVICES)
    assert last_steps(tmp_path) == []


@pytest.fixture
def validation(monkeypatch):
    """Lets validation have the given accuracies, epoch by epoch, and a loss of 1 or that of a pair."""

    def set_metrics(*epochs):
        pairs = [epoch if isinstance(epoch, tuple) else (epoch, 1.0) for epoch in epochs]
        metrics = iter([{'accuracy': accuracy, 'loss': loss} for accuracy, loss in pairs])
        monkeypatch.setattr(Evaluator, 'metrics', lambda *_: next(metrics))

    return set_metrics


def test_early_stopping_ends_the_run_and_more_patience_continues_it(short, tmp_path, validation, capsys):
    validation(0.5, 0.6, 0.6, 0.55, 0.7, 0.1)
    short.epochs, short.early_stopping.patience = 6, 2
    results = run(short, tmp_path, DEVICES)
    assert (results['epochs'], results['best_epoch'], results['stopped_early']) == (4, 2, True)
    assert results['val_accuracy'] == 0.6
    assert last_steps(tmp_path, 'best') == [2, 4]  # the first of equals

    run(short, tmp_path, DEVICES)
    assert 'is finished' in capsys.readouterr().out
    short.early_stopping.patience = 3
    results = run(short, tmp_path, DEVICES)
    assert (results['epochs'], results['best_epoch'], results['stopped_early']) == (6, 5, False)


def test_best_that_was_not_yet_saved_survives_an_interruption(short, tmp_path, validation, monkeypatch):
    """With checkpoint.every_epochs=0 the best weights wait in memory."""
    short.epochs, short.checkpoint.every_epochs = 3, 0
    validation(0.9, (0.9, 0.5), 0.1)  # of equal accuracies the one of lower loss
    log_epoch = Tracker.log_epoch

    def log_and_act(tracker, record):
        log_epoch(tracker, record)
        if record['epoch'] == 2:
            terminate()

    monkeypatch.setattr(Tracker, 'log_epoch', log_and_act)
    with pytest.raises(Interrupted):
        run(short, tmp_path, DEVICES)
    assert last_steps(tmp_path, 'best') == [4]
    assert run(short, tmp_path, DEVICES)['best_epoch'] == 2


def test_best_of_an_epoch_that_was_not_saved_is_forgotten(short, tmp_path, validation, monkeypatch):
    """Killed between the two checkpoints of an epoch, which need not turn out as well a second time."""
    short.epochs = 3
    validation(0.5, 0.9, 0.3, 0.4)
    with monkeypatch.context() as killed:
        save = Checkpoints.save

        def save_or_die(checkpoints, name, step, *rest):
            if (name, step) == ('last', 4):
                raise MemoryError
            save(checkpoints, name, step, *rest)

        killed.setattr(Checkpoints, 'save', save_or_die)
        with pytest.raises(MemoryError):
            run(short, tmp_path, DEVICES)
    assert len(records(tmp_path)) == 2  # one more than `last` knows of
    assert (last_steps(tmp_path), last_steps(tmp_path, 'best')) == ([2], [2, 4])
    assert run(short, tmp_path, DEVICES)['val_accuracy'] == 0.5
    assert last_steps(tmp_path, 'best') == [2]


def test_less_patience_lets_an_epoch_that_has_begun_finish(config):
    metadata = {'progress': asdict(Progress(epoch=2, stale_epochs=2)), 'config': config.to_dict()}
    config.early_stopping.patience = 1
    assert restored_progress(metadata, config).stopped
    assert not restored_progress(metadata, config, begun=True).stopped


def test_another_metric_for_early_stopping_begins_anew(config):
    progress = Progress(epoch=2, stopping_best=0.9, stale_epochs=1, stopped=True)
    metadata = {'progress': asdict(progress), 'config': config.to_dict()}
    config.early_stopping.patience = 1
    assert restored_progress(metadata, config).stopped
    config.early_stopping.metric = 'val_loss'
    assert restored_progress(metadata, config) == Progress(epoch=2)


def test_watching_test_says_so_everywhere(short, tmp_path, capsys, titles):
    short.dataset.validation, short.dataset.watch_test = 0.0, True
    results = run(short, tmp_path, DEVICES)
    assert all(record['selected_on'] == 'test' for record in records(tmp_path))
    assert results['selected_on'] == 'test'
    accuracies = [record['test_accuracy'] for record in records(tmp_path)]
    assert results['test_accuracy'] == pytest.approx(max(accuracies))
    assert accuracies[results['best_epoch'] - 1] == max(accuracies)
    assert evaluate(tmp_path, devices=DEVICES)['selected_on'] == 'test'
    printed = capsys.readouterr().out
    assert 'best on test' in printed
    assert 'CHOSEN ON TEST' in printed
    assert [title.endswith('CHOSEN ON TEST') for title in titles] == [True, True]  # training's, evaluation's


@pytest.fixture
def titles(monkeypatch):
    """Collects the titles of confusion matrices."""
    titles, draw = [], plots.confusion_matrix
    monkeypatch.setattr(plots, 'confusion_matrix', lambda *a, **k: titles.append(k['title']) or draw(*a, **k))
    return titles


def test_without_a_test_split_results_are_those_on_validation(short, tmp_path, capsys, monkeypatch, titles):
    short.dataset.update({'validation': 0.0, 'validation_split': 'test', 'test_split': ''})
    results = run(short, tmp_path, DEVICES)
    assert results['val_accuracy'] == max(record['val_accuracy'] for record in records(tmp_path))
    assert results['selected_on'] == 'val'
    assert not any('test' in key for key in results)
    assert titles == [f'{tmp_path.name}, validation']
    assert 'test accuracy' not in capsys.readouterr().out
    assert evaluate(tmp_path, devices=DEVICES)['accuracy'] == results['val_accuracy']
    # With classes too many for a matrix nothing is left to compute at the end.
    monkeypatch.setattr(conclusion, 'MATRIX_CLASSES', 9)
    monkeypatch.setattr(conclusion, 'summarize', None)
    (tmp_path / 'results.json').unlink()
    assert run(short, tmp_path, DEVICES)['val_accuracy'] == results['val_accuracy']


def test_without_any_evaluation_a_run_says_so(short, tmp_path, capsys):
    short.dataset.update({'validation': 0.0, 'test_split': ''})
    results = run(short, tmp_path, DEVICES)
    assert not any(key.startswith(('test_', 'val_')) for key in results)
    assert 'nothing was evaluated' in capsys.readouterr().out
    with pytest.raises(DataError, match='name a --split'):
        evaluate(tmp_path, devices=DEVICES)


def test_dispatches_take_about_half_a_second():
    training = SimpleNamespace(config=SimpleNamespace(steps_per_dispatch=0), _many_steps=True, _chunk=4)

    def chunk(pace, steps=4, fixed=0, many=True):
        training._chunk, training.config.steps_per_dispatch, training._many_steps = 4, fixed, many
        Training._adapt_chunk(training, steps, pace)
        return training._chunk

    assert [chunk(pace) for pace in (0.0, 0.01, 0.06, 0.07, 0.24, 0.26)] == [4, 8, 8, 4, 4, 2]
    assert chunk(0.01, steps=3) == 4  # the end of an epoch says nothing
    assert chunk(0.01, fixed=4) == chunk(0.01, many=False) == 4


def test_second_ctrl_c_exits_at_once_but_not_from_a_notebook(monkeypatch):
    codes, before = [], signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(os, '_exit', codes.append)
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert (interruption.signum, codes) == (signal.SIGINT, [])
        os.kill(os.getpid(), signal.SIGINT)
        assert codes == [130]
        monkeypatch.setattr(sys, 'ps1', 'In : ', raising=False)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_are_left_alone_outside_the_main_thread():
    def enter():
        with Interruption():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result() is signal.getsignal(signal.SIGINT)
