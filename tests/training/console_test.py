from training.console import Console


def test_an_epoch_that_has_skipped_all_steps_so_far_is_shown(monkeypatch, capsys):
    monkeypatch.setattr('training.console.PLAIN_SECONDS', -1)
    console = Console()
    console.start_epoch(1, 1, 5)
    console.update(1, {'loss': 0.0, 'correct': 0.0, 'count': 0.0}, 0.1, 64)
    assert 'loss 0.000  accuracy 0.0%' in capsys.readouterr().out
