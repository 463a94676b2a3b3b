"""Runs whose images stream from disk, against the same run with resident images."""

import json
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from input_pipeline import DataError
from tests.input_pipeline.conftest import write_dataset
from training import CheckpointError
from training.console import Console
from training.evaluation import evaluate
from training.feeds import StreamingFeed
from training.interruption import Interrupted
from training.parallel import Execution
from training.run import run
from training.verification import verify

DEVICES = jax.devices()[:1]


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp('tfds')
    write_dataset(data_dir, train=40, test=9, other=5, shards=2)
    (data_dir / 'pairs.txt').write_text('other-0 other-4 1\nother-4 other-3 0\nother-3 other-0 0\n')
    return data_dir


@pytest.fixture
def stream(light_config, data_dir, tmp_path):
    """config for two epochs of 4 steps, the last of them smaller, on images to be streamed by threads."""
    config = light_config
    config.epochs, config.batch_size = 2, 8
    config.augmentation.update({'crop_padding': 1, 'flip': True})
    config.dataset.update({'name': 'tiny', 'data_dir': str(data_dir), 'cache_dir': str(tmp_path / 'cache')})
    config.dataset.update({'validation': 10, 'loader': 'streaming', 'workers': 0})
    config.verification.update({'pairs': str(data_dir / 'pairs.txt'), 'split': 'other', 'resamples': 0})
    return config


@pytest.fixture
def resident(stream, tmp_path):
    """The workdir of the run with resident images."""
    config = stream.copy_and_resolve_references()
    config.dataset.loader = 'resident'
    run(config, tmp_path / 'resident', DEVICES)
    return tmp_path / 'resident'


def test_streamed_run_equals_resident_one_also_when_interrupted(
    stream, resident, tmp_path, monkeypatch, assert_same_run, capsys
):
    update, workdir = Console.update, tmp_path / 'streamed'

    def interrupt(console, done, *rest):
        update(console, done, *rest)
        if (console._title, done) == ('epoch 2/2', 2):
            monkeypatch.setattr(Console, 'update', update)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Console, 'update', interrupt)
    with pytest.raises(Interrupted):
        run(stream, workdir, DEVICES)
    others = stream.copy_and_resolve_references()
    others.verification.pairs = str(tmp_path / 'others.txt')
    Path(others.verification.pairs).write_text('other-0 other-4 0\nother-4 other-3 1\nother-3 other-0 0\n')
    with pytest.raises(CheckpointError, match=r'pairs_checksum was .*Put it back'):
        run(others, workdir, DEVICES)
    run(stream, workdir, DEVICES)
    assert_same_run(resident, workdir)
    assert 'streaming loader: as config.dataset.loader says' in capsys.readouterr().out
    records = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert all(0 <= record['data_wait'] < 1 for record in records)
    results = json.loads((workdir / 'results.json').read_text())
    assert evaluate(workdir, devices=DEVICES)['loss'] == pytest.approx(results['test_loss'])
    verified = verify(workdir, pairs=stream.verification.pairs, checkpoint='last', devices=DEVICES)
    assert verified['threshold'] == pytest.approx(results['last_verification']['threshold'])


@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_batches_are_divided_among_devices(parallel):
    execution = Execution(parallel, jax.devices()[:4])
    image = np.arange(8 * 12, dtype=np.uint8).reshape(8, 2, 2, 3)
    placed = execution.place_batch({'image': image}).arrays['image']
    shards = sorted(placed.addressable_shards, key=lambda shard: shard.device.id)
    np.testing.assert_array_equal(np.concatenate([shard.data.reshape(2, 2, 2, 3) for shard in shards]), image)


def test_feed_passes_errors_on_and_closes_what_it_reads():
    closed = []

    def batches():
        try:
            yield {'image': np.zeros((1, 2, 2, 3), np.uint8)}
            raise DataError('damaged')
        finally:
            closed.append(True)

    feed = StreamingFeed(Execution('jit', DEVICES), batches())
    assert feed.take(None).arrays['image'].shape == (1, 2, 2, 3)
    with pytest.raises(DataError, match='damaged'):
        feed.take(None)
    feed.close()
    assert closed == [True]


def test_starting_to_read_is_no_waiting():
    def batches():
        time.sleep(0.3)
        while True:
            yield {'image': np.zeros((1, 2, 2, 3), np.uint8)}

    started = time.monotonic()
    feed = StreamingFeed(Execution('jit', DEVICES), batches())
    assert time.monotonic() - started >= 0.3
    feed.take(None)
    assert feed.waited == 0
    feed.close()


def test_feed_closes_before_its_batches_end():
    def batches():
        while True:
            yield {'image': np.zeros((1, 2, 2, 3), np.uint8)}

    feed = StreamingFeed(Execution('jit', DEVICES), batches())
    feed.take(None)
    feed.close()
    assert not feed._thread.is_alive()


def test_waiting_for_images_is_warned_of_once(capsys):
    console = Console()
    record = {'epoch': 1, 'learning_rate': 0.1, 'seconds': 1.0, 'images_per_second': 1.0, 'data_wait': 0.11}
    for _ in range(2):
        console.epoch_line(record, 2, best=False)
    printed = capsys.readouterr().out
    assert printed.count('warning: 11% of the time') == 1
    assert '--config.dataset.workers' in printed
