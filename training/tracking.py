"""What a run writes down: metrics.jsonl, results.json and, on request, Weights & Biases."""

import contextlib
import csv
import errno
import itertools
import json
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline.writing import written
from training import CheckpointError


def write_json(path: Path, value: Any) -> None:
    """Writes `value` to `path` at once or not at all; NaN and infinity become null, arrays lists."""
    with written(path) as file:
        file.write_text(json.dumps(_plain(value), indent=2, allow_nan=False) + '\n')


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a line with the columns' names and one for each row."""
    with path.open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows(itertools.chain([header], rows))


@contextlib.contextmanager
def if_writable(workdir: Path) -> Iterator[None]:
    """Within it what was found about a run is written there: where that is not allowed, a warning says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            raise
        print(f'warning: {workdir} cannot be written to ({error.strerror}): not kept there', file=sys.stderr)


def read_records(workdir: Path) -> list[dict]:
    """Returns the objects of a run's metrics.jsonl, but for a last line cut short by a killed process.

    Raises:
        CheckpointError: a line before the last is not JSON.
    """
    file = workdir / 'metrics.jsonl'
    lines = file.read_text(errors='replace').splitlines() if file.exists() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise CheckpointError(
                    f'{file}: line {number} is not JSON; remove it to continue this run.'
                ) from None
    return records


class Tracker:
    """Records a run in its workdir and, unless `wandb_config.mode` is 'disabled', in Weights & Biases.

    `workdir/wandb_id.txt` keeps the id of the wandb run, so that a resumed run continues it. Offline
    it leaves one folder per start, all with that id, under `workdir/wandb`. wandb never stops training:
    without a connection or an API key the run is recorded offline, and after any other failure wandb
    is left alone; either is said once on stderr.

    Args:
        workdir: the run's folder; made if it is not there.
        wandb_config: `config.wandb`. Its mode counts, not the environment variable WANDB_MODE.
        run_config: the resolved config, for wandb.
        active: False to record nothing, as all but one of several processes should.
    """

    def __init__(
        self, workdir: Path, wandb_config: ConfigDict, run_config: Mapping[str, Any], *, active: bool = True
    ):
        self._workdir = Path(workdir).absolute()
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._metrics = self._workdir / 'metrics.jsonl'
        self._upload_checkpoint = wandb_config.upload_checkpoint
        self._wandb_run, self._active = None, active
        if active and wandb_config.mode != 'disabled':
            self._guard(lambda: self._start_wandb(wandb_config, run_config))

    def rewind(self, epoch: int) -> list[dict]:
        """Drops the records after `epoch`, which the run will write again, and returns the others.

        To be called before the first `log_epoch` (with 0 for a fresh run). Raises as `read_records` does.
        """
        records = [record for record in read_records(self._workdir) if record['epoch'] <= epoch]
        if self._active:
            with written(self._metrics) as file:
                file.write_text(''.join(map(_line, records)))
        return records

    def log_epoch(self, record: Mapping[str, Any]) -> None:
        """Appends `record`, whose 'epoch' counts from 1, as one line; a kill leaves at most a part of it."""
        if not self._active:
            return
        with self._metrics.open('a') as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())  # on disk before the checkpoint, which is of no use without it
        self._with_run(lambda run: run.log(dict(record), step=record['epoch'], commit=True))

    def log_plots(self, plots: Mapping[str, Path]) -> None:
        """Sends the images {name: path} to wandb, with the next epoch or at the end."""

        def log(run):
            import wandb

            # Not the row of this epoch, which has been sent.
            run.log({f'plots/{name}': wandb.Image(str(path)) for name, path in plots.items()}, commit=False)

        self._with_run(log)

    def finish(self, results: Mapping[str, Any], best_checkpoint: Path) -> None:
        """Writes results.json, sends it and, where wanted, the checkpoint folder to wandb; ends the run."""
        if not self._active:
            return
        write_json(self._workdir / 'results.json', results)
        self._with_run(lambda run: run.summary.update(_plain(results)))
        if self._upload_checkpoint:
            self._with_run(lambda run: _upload(run, best_checkpoint))
        self.close(exit_code=0)

    def close(self, exit_code: int) -> None:
        """Ends the wandb run, as failed or interrupted where `exit_code` is not 0; it can be resumed."""
        self._with_run(lambda run: run.finish(exit_code=exit_code))
        self._wandb_run = None

    def _with_run(self, action: Callable[[Any], None]) -> None:
        if self._wandb_run is not None:
            self._guard(lambda: action(self._wandb_run))

    def _guard(self, action: Callable[[], None]) -> None:
        """Every call of wandb goes through here: its failures end the tracking, not the training."""
        try:
            action()
        except Exception as error:
            self._wandb_run = None
            _say(f'off for the rest of this run, which goes on without it ({_reason(error)}).')

    def _start_wandb(self, config: ConfigDict, run_config: Mapping[str, Any]) -> None:
        import wandb

        settings = wandb.Settings(
            mode=config.mode,
            root_dir=str(self._workdir),
            console='off',  # the progress bar is no log
            silent=True,
            init_timeout=15,  # s, instead of 90
            finish_timeout=30,  # s that a lost connection may hold up the end
            finish_timeout_raises=True,
            reinit='create_new',  # not the run of another Tracker in this process
        )
        if config.mode == 'online' and (problem := _login_problem(settings)):
            settings.mode = 'offline'
            folder = self._workdir / 'wandb'
            _say(f'recorded offline, `wandb sync` of the runs in {folder} uploads it later ({problem}).')
        id_file = self._workdir / 'wandb_id.txt'
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4))
        self._wandb_run = wandb.init(
            project=config.project,
            entity=config.entity or None,
            name=config.name or self._workdir.name,
            id=id_file.read_text().strip(),
            resume='allow',
            config=_plain(run_config),
            settings=settings,
        )
        if settings.mode == 'online':
            _say(self._wandb_run.url)


def _login_problem(settings) -> str | None:
    """Asks the server, for at most some 11 s and without a prompt; wandb.init would do both."""
    import wandb

    try:
        wandb.setup(settings=settings)
        logged_in = wandb.login(prompt=False, verify=True)
    except Exception as error:
        return _reason(error)
    return None if logged_in else 'no API key; `wandb login` stores one'


def _upload(run, folder: Path) -> None:
    import wandb

    artifact = wandb.Artifact(f'checkpoint-{run.id}', type='model')
    for path in folder.rglob('*'):
        if path.is_file():  # immutable: read where it lies, not copied into the home directory
            artifact.add_file(str(path), name=str(path.relative_to(folder)), policy='immutable')
    run.log_artifact(artifact, aliases=['best'])
    if not run.offline:
        artifact.wait(timeout=180)  # s


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(_plain(record), allow_nan=False) + '\n'


def _plain(value: Any) -> Any:
    """Containers, arrays and scalars as standard JSON has them."""
    if hasattr(value, 'tolist'):  # NumPy and JAX
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _reason(error: Exception) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]


def _say(message: str) -> None:
    print(f'Weights & Biases: {message}', file=sys.stderr, flush=True)
