"""What a person sees while a run goes on: a progress bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from datetime import timedelta

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

DATA_WAIT = 0.1  # share of an epoch above which waiting for images is worth a warning
PLAIN_SECONDS = 30  # between lines within an epoch where there is no bar
SHOWN_LEFT = 60  # seconds of the run


class Console:
    """Prints a run's messages, epochs and progress to stdout."""

    def __init__(self):
        self._rich = RichConsole(highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._next_line = 0.0
        self._last_line: float | None = None  # of an epoch
        self._begun = False
        self._warned_of_waiting = False

    def print(self, message='') -> None:
        """Prints text or anything that rich can draw."""
        self._rich.print(message, markup=False)

    def start_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        """Begins an epoch (1-based) of so many steps."""
        self._title = f'epoch {epoch}/{epochs}'
        self._steps = steps
        self._next_line = time.monotonic() + PLAIN_SECONDS
        if self._rich.is_terminal:
            columns = TextColumn('{task.description}'), BarColumn(20), TextColumn('{task.fields[status]}')
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._rich, transient=True)
            self._task = self._bar.add_task(self._title, total=steps, status='compiling …')
            self._bar.start()
        elif not self._begun:
            self.print('compiling …')
        self._begun = True

    def update(self, step: int, sums: Mapping[str, float], rate: float, images_per_second: float) -> None:
        """Shows how far the epoch is: steps done, means so far, learning rate, images per second."""
        count = max(sums['count'], 1)  # 0 where float16 has skipped all steps so far
        status = (
            f'{step}/{self._steps}  loss {sums["loss"] / count:.3f}  '
            f'accuracy {sums["correct"] / count:.1%}  lr {rate:.2g}  {images_per_second:,.0f} img/s'
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=status)
        elif time.monotonic() > self._next_line:
            self.print(f'{self._title}  {status}')
            self._next_line = time.monotonic() + PLAIN_SECONDS

    def stop_epoch(self) -> None:
        """Takes the bar away, whatever ended the epoch."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def epoch_line(self, record: Mapping, epochs: int, *, best: bool) -> None:
        """Prints the line of a finished epoch; `best` marks the best so far."""
        parts = [f'epoch {record["epoch"]:>{len(str(epochs))}}/{epochs}']
        for split in ('train', 'val', 'test'):
            if f'{split}_loss' in record:
                loss, accuracy = record[f'{split}_loss'], record[f'{split}_accuracy']
                parts.append(f'{split} loss {loss:.3f} accuracy {100 * accuracy:5.2f} %')
        if 'verification_eer' in record:
            eer, accuracy = 100 * record['verification_eer'], 100 * record['verification_accuracy']
            parts.append(f'pairs EER {eer:5.2f} % accuracy {accuracy:5.2f} %')
        parts.append(f'lr {record["learning_rate"]:.2g}')
        parts.append(f'{record["seconds"]:.1f} s  {record["images_per_second"]:,.0f} img/s')
        now = time.monotonic()
        # With evaluation and checkpoints, once there are two lines to tell it from.
        pace = record['seconds'] if self._last_line is None else now - self._last_line
        self._last_line, left = now, pace * (epochs - record['epoch'])
        if left >= SHOWN_LEFT:
            parts.append(f'about {timedelta(seconds=round(left))} left')
        if record.get('data_wait', 0) > DATA_WAIT and not self._warned_of_waiting:
            self._warned_of_waiting = True
            self.print(
                f'warning: {record["data_wait"]:.0%} of the time the device waited for images; more '
                '--config.dataset.workers may help, where there are cores for them'
            )
        if best:
            parts.append(f'* best on {record["selected_on"]}')
        self.print('  '.join(parts))
