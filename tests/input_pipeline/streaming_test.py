"""Streaming gives what Resident gives; its worker processes end as they should."""

import itertools
import multiprocessing
import os
import resource
import signal
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


@pytest.fixture
def expected(splits):
    """The batches of the resident loader: two epochs of 4, 4 and 3 images."""
    resident = Resident(splits[0].splits['train'], ROWS)
    orders = [training_order(len(ROWS), seed=5, epoch=epoch) for epoch in range(2)]
    return [resident.take(order[start : start + 4]) for order in orders for start in (0, 4, 8)]


def start_batches(splits, *, workers, start=0, epochs=2, **options):
    loader = Streaming(splits[1].splits['train'], ROWS, workers=workers)
    return loader.training_batches(4, seed=5, epochs=epochs, start=start, **{'drop_last': False, **options})


def assert_same_batches(ones, others):
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(one['image'], other['image'])
        np.testing.assert_array_equal(one['label'], other['label'])


@pytest.mark.parametrize('start', [0, 4])
def test_streamed_batches_are_the_resident_ones_from_any_step_on(splits, expected, start):
    assert_same_batches(start_batches(splits, workers=0, start=start), expected[start:])


def test_processes_that_train_together_get_parts_of_the_same_batches(splits, expected):
    parts = [start_batches(splits, workers=0, drop_last=True, part=(index, 2)) for index in range(2)]
    joined = [
        {name: np.concatenate([part[name] for part in batch]) for name in batch[0]}
        for batch in zip(*parts, strict=True)
    ]
    assert_same_batches(joined, [batch for batch in expected if len(batch['label']) == 4])


def test_streamed_examples_are_the_resident_ones(splits):
    resident = Resident(splits[0].splits['train'], ROWS)
    streaming = Streaming(splits[1].splits['train'], ROWS, workers=0)
    indices = np.array([3, 0])
    assert_same_batches([streaming.take(indices)], [resident.take(indices)])
    assert list(streaming.ids) == list(resident.ids)
    assert list(streaming.labels) == list(resident.labels)


def test_workers_give_the_same_batches_also_after_sigterm_until_one_is_killed(splits, expected):
    batches = start_batches(splits, workers=2, start=1, epochs=10**6)
    assert_same_batches([next(batches) for _ in range(4)], expected[1:5])
    worker, _ = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGTERM)
    assert_same_batches([next(batches)], expected[5:])
    assert len(list(itertools.islice(batches, 20))) == 20  # more than were read ahead
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(DataError, match=r'died with exit code -9 .*config\.dataset\.workers'):
        list(itertools.islice(batches, 100))


def test_workers_follow_their_parent_but_leave_sigterm_to_it(monkeypatch):
    followed, before = [], signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(streaming, 'follow_parent', lambda: followed.append(True))
    try:
        streaming._start_worker(0, 2)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert followed == [True]


def test_evaluation_batches_are_the_split_in_order_and_padded(splits):
    decoded, encoded = (dataset.splits['test'] for dataset in splits)
    batches = list(Streaming(encoded, workers=-1).evaluation_batches(4))
    assert [len(batch['image']) for batch in batches] == [4, 4, 4]
    images = np.concatenate([batch['image'] for batch in batches])
    np.testing.assert_array_equal(images[:9], decoded.images)


def test_more_files_can_be_open_than_a_shell_allows(splits):
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, most))
    try:
        splits[1].splits['train'].images[:1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


def test_images_are_resized_as_for_the_cache(tiny, dataset_config):
    dataset_config.image_size, dataset_config.loader = 5, 'streaming'
    decoded, encoded = (sources.load(dataset_config, ['test'], memory=memory) for memory in (None, 1e9))
    assert encoded.image_shape == (5, 5, 3)
    images = encoded.splits['test'].images[2:7]
    np.testing.assert_array_equal(images, decoded.splits['test'].images[2:7])


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


def test_dataset_prepared_anew_is_noticed(splits, tiny):
    loader = Streaming(splits[1].splits['train'], workers=0)
    for shard in tiny.glob('*.array_record*'):
        os.utime(shard, (0, 0))
    with pytest.raises(DataError, match=r'tiny/1\.0\.0 was prepared anew while this run used it'):
        next(loader.evaluation_batches(4))


def test_processes_of_a_machine_share_its_cores_and_room(monkeypatch, tmp_path):
    monkeypatch.setattr(streaming, '_SHARED_MEMORY', tmp_path)
    monkeypatch.setattr(streaming.shutil, 'disk_usage', lambda _: type('Usage', (), {'free': 6000}))
    monkeypatch.setattr(streaming.os, 'cpu_count', lambda: 12)
    monkeypatch.setattr(streaming.decoding, 'core_count', lambda: 12)
    count = streaming._worker_count
    assert [count(-1, 1, processes) for processes in (1, 3, 12)] == [12, 4, 0]
    assert count(-1, 100, 4) == 3  # five batches of each worker are in shared memory
    monkeypatch.setattr(streaming.decoding, 'core_count', lambda: 8)  # its own ones
    assert count(-1, 1, 3) == 8


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
