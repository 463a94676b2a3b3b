import resource

import numpy as np
import pytest

from input_pipeline import DataError, cache

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), np.uint8)


def chunks():
    for start in (0, 5):
        yield (
            IMAGES[start : start + 5],
            np.arange(start, start + 5),
            [f'id{i}' for i in range(start, start + 5)],
        )


def write(folder, chunks=chunks, fingerprint='now'):
    cache.write(folder, 'train', fingerprint, IMAGES.shape, chunks(), ('ant', 'bee'))


def assert_intact(folder):
    entries = cache.read(folder, 'train', 'now')
    np.testing.assert_array_equal(entries['images'], IMAGES)
    np.testing.assert_array_equal(entries['labels'], np.arange(10))
    assert entries['ids'][9] == 'id9'
    assert tuple(entries['class_names']) == ('ant', 'bee')


def test_what_is_written_is_read_back(tmp_path):
    assert cache.read(tmp_path, 'train', 'now') is None
    write(tmp_path)
    assert_intact(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['train.npy', 'train.npz']


def test_stale_cache_is_not_read(tmp_path):
    write(tmp_path, fingerprint='before')
    assert cache.read(tmp_path, 'train', 'now') is None


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b'more')


def empty(path):
    path.write_bytes(b'')


def damage_header(path):
    path.write_bytes(b'\x00' * 60 + path.read_bytes()[60:])


def reshape(path):
    path.write_bytes(path.read_bytes().replace(b'(10, 4, 4, 3)', b'(10, 4, 3, 4)'))


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[-150] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('damage', [truncate, lengthen, empty, damage_header, reshape, flip_bit])
def test_damaged_images_are_noticed_and_replaced(tmp_path, damage):
    write(tmp_path)
    damage(tmp_path / 'train.npy')
    assert cache.read(tmp_path, 'train', 'now') is None
    write(tmp_path)
    assert_intact(tmp_path)


@pytest.mark.parametrize('damage', [truncate, empty, damage_header])
def test_damaged_labels_are_noticed(tmp_path, damage):
    write(tmp_path)
    damage(tmp_path / 'train.npz')
    assert cache.read(tmp_path, 'train', 'now') is None


def test_two_writers_at_once_do_not_disturb_each_other(tmp_path):
    def with_another_writer():
        for chunk in chunks():
            write(tmp_path)
            yield chunk

    write(tmp_path, with_another_writer)
    assert_intact(tmp_path)


def test_full_disk_is_explained_and_leaves_nothing_behind(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(DataError, match=r'Cannot write .*--config.dataset.cache_dir'):
            write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
