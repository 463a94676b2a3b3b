import sys
from io import StringIO

from input_pipeline.progress import track


def test_a_terminal_gets_a_bar_and_other_output_a_line(monkeypatch, capsys):
    chunks = [range(3), range(7)]
    assert list(track(chunks, 10, 'Reading [a]')) == chunks
    assert capsys.readouterr().err == 'Reading [a]\n'

    terminal = StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, 'stderr', terminal)
    monkeypatch.setenv('TERM', 'xterm')
    assert list(track(chunks, 10, 'Reading [a]')) == chunks
    assert 'Reading [a]' in terminal.getvalue()
    assert '100%' in terminal.getvalue()
