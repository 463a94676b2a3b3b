"""The course of a run: epochs, evaluation, the best checkpoint, and what remains of it all."""

import contextlib
import time
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np

from input_pipeline.loaders import training_order
from training import NonFiniteLoss
from training.checkpoints import Checkpoints
from training.conclusion import conclude, draw_curves
from training.console import Console
from training.evaluation import Evaluator
from training.experiment import Experiment, versions
from training.feeds import create_training_feed
from training.host_memory import return_freed_memory, take_holes
from training.interruption import Interrupted, Interruption
from training.loss_scale import all_finite
from training.progress import Progress
from training.resolve import selection_split
from training.resumption import BEST, data_of, find_last
from training.schedules import hyperparameters
from training.steps import SUMS
from training.tracking import Tracker, read_records
from training.verification import PER_EPOCH, Verifier

SECONDS_PER_DISPATCH = 0.5  # so that the bar moves and a signal is heard soon
SECONDS_PER_DRAWING = 60.0  # of the curves during training, which takes about one


class Training:
    """A run in a workdir: continues from its last checkpoint, or begins."""

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        *,
        checkpoints: Checkpoints,
        console: Console,
        tracker: Tracker,
    ):
        self.experiment, self.config, self.workdir = experiment, experiment.config, workdir
        self.execution, self.console, self.tracker = experiment.execution, console, tracker
        self.checkpoints = checkpoints
        self.progress = Progress()
        self.selected_on = selection_split(self.config)
        self._evaluators: dict[str, Evaluator] = {}  # of the split that chooses the best epoch
        self._verifier: Verifier | None = None  # where the config names pairs
        self._unsaved = {}  # variables of the best epochs that are not yet on disk
        self._started = self._saved = self._drawn = time.monotonic()  # when it last was
        # Seconds a step takes, an epoch's mean (one dispatch's depend on when the host waits); 0: not known.
        self._pace = 0.0
        self._streaming = experiment.dataset.loader == 'streaming'
        self._many_steps = self.execution.many_steps and not self._streaming
        self._chunk = (self.config.steps_per_dispatch or 1) if self._many_steps else 1
        self._run_train = self.execution.compile_train(experiment.train_step())
        self._compiled = {}  # the same, by the shape of an epoch's order
        self._run_evaluate = self.execution.compile_evaluate(experiment.predict_step())

    def run(self) -> dict:
        """Trains to the end and returns the results.

        Raises:
          Interrupted: after a signal, with everything saved.
          NonFiniteLoss: naming the step, and the last checkpoint is from before it; or, where the outputs of
            a checkpoint are not finite at the end, the image.
          CheckpointError: there is one that cannot be continued from.
        """
        try:
            with Interruption(shared=self.execution.process_count > 1) as interruption:
                self.state = self._restored_state() or self.execution.replicate(
                    self.experiment.create_state()
                )
                records = self.tracker.rewind(self.progress.epoch)
                if self.selected_on is not None:
                    loader = self.experiment.loaders[self.selected_on]
                    self._evaluators[self.selected_on] = Evaluator(self.experiment, loader)
                if self.experiment.paired is not None:
                    self._verifier = Verifier(
                        self.experiment, self.experiment.paired, flip=self.config.verification.flip
                    )
                feed = create_training_feed(self.experiment, int(self.execution.fetch(self.state.step)))
                with contextlib.closing(feed):
                    first = self.progress.epoch
                    while self.progress.epoch < self.config.epochs and not self.progress.stopped:
                        self._draw(records)
                        records.append(self._epoch(feed, interruption))
                        if self.progress.epoch == first + 1:
                            take_holes()  # the evaluation has been compiled
                self.checkpoints.close()
                interruption.nothing_left_to_save()
                return self._finish(records)
        except BaseException as error:
            # Of several processes one that fails alone must not wait for the others here.
            if self.execution.process_count == 1 or isinstance(error, Interrupted):
                self.checkpoints.close()
            raise

    def _epoch(self, feed, interruption) -> dict:
        """Trains (the rest of) an epoch, evaluates it, and saves and logs what it gave."""
        progress, epoch = self.progress, self.progress.epoch
        applied = self._train_epoch(feed, epoch, interruption)
        if not progress.sums['count']:  # float16 leaves out the steps whose loss overflows
            step = (epoch + 1) * self.experiment.steps
            raise NonFiniteLoss(self._non_finite('train loss of a whole epoch', step))
        record = {
            'epoch': epoch + 1,
            'epochs': self.config.epochs,
            'step': (epoch + 1) * self.experiment.steps,
            'train_loss': progress.sums['loss'] / progress.sums['count'],
            'train_accuracy': progress.sums['correct'] / progress.sums['count'],
        }
        variables = self.state.variables
        for split, evaluator in self._evaluators.items():
            metrics = evaluator.metrics(self._run_evaluate, variables)
            if not np.isfinite(metrics['loss']):
                raise NonFiniteLoss(self._non_finite(f'{split} loss', record['step']))
            record |= {f'{split}_{name}': value for name, value in metrics.items()}
        record |= self._verify(variables, record['step'])
        record |= {
            'learning_rate': float(applied['learning_rate'][-1]),
            'seconds': progress.seconds,
            'images_per_second': progress.sums['count'] / progress.seconds,
            'selected_on': self.selected_on or 'last epoch',
        }
        if self._streaming:
            record['data_wait'] = progress.waited / progress.seconds
        better = progress.finish_epoch(self.config, record, self.selected_on)
        self._unsaved |= {name: self.execution.unreplicate(variables) for name in better}
        self.tracker.log_epoch(record)
        best = 'best' in better and self.selected_on is not None
        self.console.epoch_line(record, self.config.epochs, best=best)
        signum = interruption.signum
        last = progress.stopped or progress.epoch == self.config.epochs
        every = self.config.checkpoint
        due = (
            _divides(every.every_epochs, progress.epoch) and self._seconds_since_saved() >= every.min_seconds
        )
        if last or signum or due or _divides(every.every_steps, record['step']):
            self._save(record['step'])
        if signum:
            raise Interrupted(signum)
        return record

    def _draw(self, records: list[dict]) -> None:
        due = time.monotonic() - self._drawn > SECONDS_PER_DRAWING
        if records and due and self.execution.is_main:
            draw_curves(self.experiment, self.progress, records, self.workdir)
            self._drawn = time.monotonic()

    def _seconds_since_saved(self) -> float:
        """The same in all processes."""
        return float(np.asarray(self.execution.maximum([time.monotonic() - self._saved]))[0])

    def _verify(self, variables, step: int) -> dict[str, float]:
        """Returns what the record of an epoch says of the pairs."""
        if self._verifier is None:
            return {}
        try:
            scores = self._verifier.scores(variables)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(self._non_finite('feature of a paired image', step)) from error
        summary = self._verifier.summarize(scores)
        return {f'verification_{name}': summary[name] for name in PER_EPOCH}

    def _train_epoch(self, feed, epoch: int, interruption: Interruption) -> dict[str, np.ndarray]:
        """Runs the epoch's remaining steps and returns the hyperparameters of all."""
        size, batch_size = self.experiment.loaders['train'].size, self.config.batch_size
        order = training_order(size, seed=self.config.seed, epoch=epoch)
        applied = hyperparameters(self.config, self.experiment.steps, epoch, self.progress.plateau)
        full = size // batch_size
        segments = [(0, order[: full * batch_size].reshape(full, batch_size))]
        if self.experiment.steps > full:
            segments.append((full, order[None, full * batch_size :]))

        done = int(self.execution.fetch(self.state.step)) - epoch * self.experiment.steps
        self.console.start_epoch(epoch + 1, self.config.epochs, self.experiment.steps)
        try:
            for first, rows in segments:
                if done < first + len(rows):
                    stop = first + len(rows)
                    part = {name: values[first:stop] for name, values in applied.items()}
                    self._segment(feed, rows, part, first, done - first, interruption)
                    done = stop
        finally:
            self.console.stop_epoch()
        return applied

    def _segment(self, feed, rows, applied, offset: int, start: int, interruption: Interruption) -> None:
        """Runs rows `start` and later of an epoch, of which `rows` are the steps from `offset`."""
        order = self.execution.place_order(rows)
        rates = {name: np.asarray(values, np.float32) for name, values in applied.items()}
        base = self.progress.epoch * self.experiment.steps + offset
        every = self.config.checkpoint.every_steps
        waiting = None  # a dispatch whose results are still to come: the next one is queued behind it
        first_step, earlier, clock = start, self.progress.seconds, time.monotonic()

        def collect():
            nonlocal clock, waiting
            if waiting is None:
                return
            first, stop, sums, votes = waiting
            waiting = None
            self._absorb(self.execution.fetch(sums), base, first, stop)
            now = time.monotonic()
            seconds, clock = now - clock, now
            self.progress.seconds += seconds
            self.progress.waited += feed.waited
            feed.waited = 0.0
            self._pace = (self.progress.seconds - earlier) / (stop - first_step)
            signum, pace = np.asarray(votes)
            interruption.signum = int(signum) or interruption.signum
            self._adapt_chunk(stop - first, float(pace))
            rate, speed = applied['learning_rate'][stop - 1], rows.shape[1] / self._pace
            self.console.update(offset + stop, self.progress.sums, rate, speed)

        while start < len(rows):
            stop = min(start + self._chunk, len(rows))
            if every:
                stop = min(stop, start + every - (base + start) % every)
            data = feed.take(self.state.step)
            arguments = self.state, data, order, rates, start, stop
            if rows.shape not in self._compiled:
                clock -= time.monotonic()  # compiling is no training
                self._compiled[rows.shape] = self.execution.compile_ahead(self._run_train, *arguments)
                clock += time.monotonic()
            self.state, sums = self._compiled[rows.shape](*arguments)
            # What all processes must agree on: to stop, and how much to dispatch at once.
            votes = self.execution.maximum([interruption.received or 0, self._pace])
            collect()
            waiting, start = (start, stop, sums, votes), stop
            if _divides(every, base + start) or interruption.signum:
                collect()
                # The end of an epoch is saved there, evaluated.
                if offset + start < self.experiment.steps:
                    clock -= time.monotonic()  # nor is saving
                    self._save(base + start)
                    clock += time.monotonic()
                    if interruption.signum:
                        raise Interrupted(interruption.signum)
        collect()

    def _absorb(self, sums, base: int, start: int, stop: int) -> None:
        losses = sums['loss'][start:stop]
        if not np.isfinite(losses).all():
            first = int(np.argmin(np.isfinite(losses)))
            raise NonFiniteLoss(self._non_finite('train loss', base + start + first + 1))
        for name in SUMS:
            self.progress.sums[name] += float(sums[name][start:stop].sum(dtype=np.float64))

    def _adapt_chunk(self, steps: int, pace: float) -> None:
        if self.config.steps_per_dispatch or not self._many_steps or steps < self._chunk or not pace:
            return
        if pace * self._chunk < SECONDS_PER_DISPATCH / 2:
            self._chunk *= 2
        elif pace * self._chunk > SECONDS_PER_DISPATCH * 2:
            self._chunk = max(1, self._chunk // 2)

    def _save(self, step: int) -> None:
        if not self.execution.fetch(_all_finite(self.state.params)).all():
            raise NonFiniteLoss(self._non_finite('parameters', step))
        metadata = {
            'config': self.config.to_dict(),
            'dataset': self.experiment.dataset.description(),
            **data_of(self.experiment),
            'versions': versions(),
        }
        for name, variables in self._unsaved.items():
            best_epoch = getattr(self.progress, f'{name}_epoch')
            self.checkpoints.save(name, best_epoch * self.experiment.steps, variables, metadata)
        self._unsaved = {}
        state = self.execution.unreplicate(self.state)
        progress = asdict(self.progress) | {'wall_seconds': self._wall_seconds()}
        self.checkpoints.save('last', step, state, {**metadata, 'progress': progress})
        return_freed_memory()
        self._saved = time.monotonic()

    def _wall_seconds(self) -> float:
        return self.progress.wall_seconds + time.monotonic() - self._started

    def _restored_state(self):
        """Returns the state of the last checkpoint, or None where there is none."""
        found = find_last(self.checkpoints, self.experiment, self.workdir, len(read_records(self.workdir)))
        if found is None:
            return None
        step, metadata, self.progress = found
        state = self.checkpoints.restore('last', step, self.experiment.abstract_state())
        for name in BEST:  # one may have been saved without its `last`
            self.checkpoints.delete_from(name, step + 1)
        self.console.print(f'Continuing from step {step:,} ({self.progress.epoch} epochs done).')
        if (precision := metadata['config']['precision']) != self.config.precision:
            self.console.print(f'config.precision was {precision}, is {self.config.precision} from here on.')
        if self.config.epochs < self.progress.epoch:
            self.console.print(f'More than config.epochs={self.config.epochs} are done: nothing is trained.')
        elif (epochs := metadata['config']['epochs']) != self.config.epochs:
            self.console.print(
                f'config.epochs was {epochs}, is {self.config.epochs}: the schedule follows the new one, so '
                'the learning rate may jump.'
            )
        return self.execution.replicate(state)

    def _finish(self, records: list[dict]) -> dict:
        """Evaluates the best checkpoints, draws, and writes results.json."""
        results, drawn = conclude(
            self.experiment,
            self.checkpoints,
            self.progress,
            records,
            self.workdir,
            last_variables=self.state.variables,
            evaluators=self._evaluators,
            verifier=self._verifier,
        )
        results['wall_seconds'] = self._wall_seconds()
        self.checkpoints.close()
        best = self.progress.best_epoch * self.experiment.steps
        self.tracker.log_plots(drawn)
        self.tracker.finish(results, self.checkpoints.directory / 'best' / str(best))
        return results

    def _non_finite(self, what: str, step: int) -> str:
        self.checkpoints.close()  # one may be on its way to the disk
        epoch = (step - 1) // self.experiment.steps + 1
        saved = self.checkpoints.steps('last')
        kept = (
            f'The last good checkpoint is of step {saved[-1]:,}' if saved else 'No checkpoint was saved yet'
        )
        wider = 'precision=bfloat16, ' if self.config.precision == 'float16' else ''
        return (
            f'the {what} became infinite or NaN at step {step:,} (epoch {epoch}). {kept}. Try {wider}a lower '
            'optimizer.learning_rate, a longer schedule.warmup_epochs or optimizer.clip_norm=1.'
        )


def _divides(every: int, count: int) -> bool:
    return bool(every) and count % every == 0


@jax.jit
def _all_finite(tree) -> jax.Array:
    return all_finite(tree)[None]  # `fetch` takes an array a device
