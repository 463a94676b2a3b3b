import pytest
from rich.console import Console

from configs import default
from jax_models import create_model, summary


def create(**changes):
    config = default.get_config().model
    config.convolution = 'xla'
    config.update(changes)
    return create_model(config, num_classes=10)


def test_table_lists_modules_with_shapes_and_their_total():
    console = Console(width=80, record=True, quiet=True)
    with console.capture() as captured:
        Console(width=80, file=console.file)
    table = summary.table(create(width=64), (32, 32, 3))
    console.print(table)
    lines = [line.split() for line in captured.get().splitlines()]
    assert lines
