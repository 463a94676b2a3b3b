from io import StringIO

import pytest
from rich.console import Console as RichConsole

from training.console import Console


def test_an_epoch_that_has_skipped_all_steps_so_far_is_shown(monkeypatch, capsys):
    monkeypatch.setattr('training.console.PLAIN_SECONDS', -1)
    console = Console()
    console.start_epoch(1, 1, 5)
    console.update(1, {'loss': 0.0, 'correct': 0.0, 'count': 0.0}, 0.1, 64)
    assert 'loss 0.000  accuracy 0.0%' in capsys.readouterr().out


def test_a_terminal_gets_a_bar():
    console, terminal = Console(), StringIO()
    console._rich = RichConsole(file=terminal, force_terminal=True, color_system=None, width=150)
    console.start_epoch(2, 9, 40)
    console.update(10, {'loss': 30.0, 'correct': 15.0, 'count': 20.0}, 0.05, 1234)
    console.stop_epoch()
    shown = terminal.getvalue()
    assert 'epoch 2/9' in shown
    assert '10/40  loss 1.500  accuracy 75.0%  lr 0.05  1,234 img/s' in shown
    assert '━' in shown


@pytest.mark.parametrize(('epoch', 'left'), [(1, 'about 2:30:00 left'), (9, 'about 0:16:40 left'), (10, '')])
def test_epochs_say_how_long_the_run_will_take(capsys, epoch, left):
    record = {'epoch': epoch, 'learning_rate': 0.1, 'seconds': 1000.0, 'images_per_second': 50}
    Console().epoch_line(record, 10, best=False)
    assert capsys.readouterr().out.strip().endswith(f'50 img/s  {left}'.strip())


def test_evaluation_counts_in_how_long_the_run_will_take(monkeypatch, capsys):
    console, record = Console(), {'learning_rate': 0.1, 'seconds': 1000.0, 'images_per_second': 50}
    for epoch, now in ((1, 50.0), (2, 1250.0)):
        monkeypatch.setattr('training.console.time.monotonic', lambda now=now: now)
        console.epoch_line({**record, 'epoch': epoch}, 5, best=False)
    assert [line.split('about ')[1] for line in capsys.readouterr().out.splitlines()] == [
        '1:06:40 left',
        '1:00:00 left',
    ]
