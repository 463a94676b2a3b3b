"""Streaming gives what Resident gives; its worker processes end as they should."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import DataError, sources, streaming
from input_pipeline.loaders import Resident, training_order
from input_pipeline.normalization import constants
from input_pipeline.streaming import Streaming

ROOT = Path(__file__).parents[2]
ROWS = np.arange(1, 22, 2)  # 11 of the 24


@pytest.fixture
def splits(tiny, dataset_config):
    """The dataset decoded, and as it lies on disk."""
    decoded = sources.load(dataset_config)
    dataset_config.loader = 'streaming'
    return decoded, sources.load(dataset_config, memory=1e9)


def take_batches(split, *, workers, start=0):
    loader = Streaming(split, ROWS, workers=workers)
    batches = loader.training_batches(4, seed=5, epochs=2, drop_last=False, start=start)
    return [{name: np.array(array) for name, array in batch.items()} for batch in batches]


def assert_same_batches(ones, others):
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(one['image'], other['image'])
        np.testing.assert_array_equal(one['label'], other['label'])


def test_streamed_batches_are_the_resident_ones_for_any_number_of_workers(splits):
    decoded, encoded = (dataset.splits['train'] for dataset in splits)
    resident = Resident(decoded, ROWS)
    expected = []
    for epoch in range(2):
        order = training_order(len(ROWS), seed=5, epoch=epoch)
        expected += [resident.take(order[start : start + 4]) for start in (0, 4, 8)]
    assert_same_batches(take_batches(encoded, workers=0), expected)
    assert_same_batches(take_batches(encoded, workers=2, start=1), expected[1:])
    assert_same_batches(take_batches(encoded, workers=0, start=4), expected[4:])
    loader = Streaming(encoded, ROWS, workers=0)
    assert list(loader.ids) == list(resident.ids)
    assert_same_batches([loader.take(np.array([3, 0]))], [resident.take(np.array([3, 0]))])


def test_evaluation_batches_are_the_split_in_order_and_padded(splits):
    decoded, encoded = (dataset.splits['test'] for dataset in splits)
    batches = list(Streaming(encoded, workers=-1).evaluation_batches(4))
    assert [len(batch['image']) for batch in batches] == [4, 4, 4]
    images = np.concatenate([batch['image'] for batch in batches])
    np.testing.assert_array_equal(images[:9], decoded.images)


def test_streamed_splits_are_described_without_being_decoded(splits, dataset_config):
    decoded, encoded = splits
    assert (decoded.loader, encoded.loader) == ('resident', 'streaming')
    assert encoded.image_shape == decoded.image_shape
    images = encoded.splits['train'].images
    assert (images.shape, images.nbytes) == ((24, 8, 8, 3), 24 * 8 * 8 * 3)
    for one, other in zip(constants('dataset', encoded), constants('dataset', decoded), strict=True):
        np.testing.assert_array_equal(one, other)
    stored = sources.load(dataset_config, memory=1e9).splits['train']  # from the index in the cache
    np.testing.assert_array_equal(stored.labels, decoded.splits['train'].labels)
    np.testing.assert_array_equal(stored.ids, decoded.splits['train'].ids)


@pytest.mark.parametrize(
    ('loader', 'free', 'chosen'),
    [('auto', 25e9, 'resident'), ('auto', 24e9, 'streaming'), ('streaming', 1e12, 'streaming')],
)
def test_auto_takes_at_most_40_per_cent_of_the_memory(loader, free, chosen):
    name, reason = sources.choose_loader(loader, 10_000_000_000, free)
    assert name == chosen
    assert '10.00 GB' in reason


def test_resident_that_cannot_fit_is_refused(tiny, dataset_config):
    dataset_config.loader = 'resident'
    with pytest.raises(DataError, match=r'loader=resident: the images do not fit .*Use auto or'):
        sources.load(dataset_config, memory=6000)


def test_damaged_image_names_its_record_and_file(write_tiny, dataset_config, monkeypatch):
    write_tiny()
    dataset_config.loader = 'streaming'
    images = sources.load(dataset_config, memory=1e9).splits['train'].images
    monkeypatch.setattr(streaming.decoding, '_FORMATS', ('GIF',))  # so that no PNG is read
    with pytest.raises(DataError, match=r'train\.array_record-00000-of-00001: .* record 7 is damaged'):
        images[[7]]


def test_workers_ask_for_room_and_a_main_guard(splits, monkeypatch):
    loader = Streaming(splits[1].splits['train'], workers=2)
    start = {'seed': 0, 'epochs': 1, 'drop_last': True, 'start': 0}
    monkeypatch.setattr(streaming.shutil, 'disk_usage', lambda _: type('Usage', (), {'free': 1000}))
    monkeypatch.setattr(streaming, '_SHARED_MEMORY', ROOT)
    with pytest.raises(DataError, match=r'workers=2: .*has room for 0.*shm-size'):
        next(loader.training_batches(4, **start))
    monkeypatch.setattr(multiprocessing.current_process(), '_inheriting', True, raising=False)
    with pytest.raises(DataError, match='__main__'):
        next(loader.training_batches(4, **start))


def worker_pids(parent):
    """The processes that a process has spawned, but for Python's resource tracker."""
    pids = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            state, ppid = path.read_text().rpartition(')')[2].split()[:2]
            line = (path.parent / 'cmdline').read_text()
        except OSError:
            continue
        if int(ppid) == parent and state != 'Z' and 'spawn_main' in line:
            pids.append(int(path.parent.name))
    return pids


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_killed_worker_is_an_error_and_orphans_exit(splits, dataset_config):
    """A script whose workers are killed says so; workers whose script is killed end too."""
    script = f'''
import sys
sys.path.insert(0, {str(ROOT)!r})
from ml_collections import ConfigDict
from input_pipeline import sources
from input_pipeline.streaming import Streaming
if __name__ == '__main__':
    split = sources.load(ConfigDict({dataset_config.to_dict()!r}), memory=1e9).splits['train']
    batches = Streaming(split, workers=1).training_batches(4, seed=0, epochs=10**6, drop_last=True, start=0)
    for batch in batches:
        print('batch', flush=True)
'''
    command = [sys.executable, '-c', script]
    parents = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    try:
        killed, orphaned = ([parent.stdout.readline(), *worker_pids(parent.pid)][1] for parent in parents)
        os.kill(killed, signal.SIGKILL)
        assert b'died with exit code -9' in parents[0].communicate(timeout=30)[1]
        parents[1].kill()
        wait_until(lambda: not Path(f'/proc/{orphaned}').exists())
    finally:
        for parent in parents:
            parent.kill()
            parent.wait()
