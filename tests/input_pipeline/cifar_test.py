import hashlib
import io
import sys
import tarfile
import threading
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from tensorflow_datasets.core.download.checksums import UrlInfo

from input_pipeline import DataError, cifar, sources

LAYOUTS = {
    'cifar10': (
        'cifar-10-batches-bin/',
        [f'data_batch_{i}.bin' for i in range(1, 6)] + ['test_batch.bin'],
        {'batches.meta.txt': [f'class{i}' for i in range(10)]},
    ),
    'cifar100': (
        'cifar-100-binary/',
        ['train.bin', 'test.bin'],
        {
            'coarse_label_names.txt': [f'coarse{i}' for i in range(20)],
            'fine_label_names.txt': [f'class{i}' for i in range(100)],
        },
    ),
}


@pytest.fixture
def archive(request, dataset_config, tmp_path, monkeypatch):
    """A tiny archive in manual_dir, of the dataset given by `indirect`, whose checksum TFDS accepts."""
    name = getattr(request, 'param', 'cifar10')
    prefix, data_files, label_files = LAYOUTS[name]
    rng = np.random.default_rng(0)
    contents = {file: '\n'.join(names).encode() + b'\n\n' for file, names in label_files.items()}
    for file in data_files:
        labels = rng.integers(
            0, [20, 100][-len(label_files) :] if name == 'cifar100' else 10, (4, len(label_files))
        )
        pixels = rng.integers(0, 256, (4, 3072))
        contents[file] = np.concatenate([labels, pixels], 1).astype(np.uint8).tobytes()
    builder_cls = cifar._builder_cls(name)
    [(url, info)] = [item for item in builder_cls.url_infos.items() if 'binary.tar.gz' in item[0]]
    path = tmp_path / 'manual' / url.rpartition('/')[2]
    path.parent.mkdir()
    with tarfile.open(path, 'w:gz') as tar:
        for file, content in contents.items():
            member = tarfile.TarInfo(prefix + file)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    accepted = UrlInfo(path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest(), info.filename)
    monkeypatch.setattr(builder_cls, 'url_infos', {url: accepted})
    dataset_config.name, dataset_config.manual_dir = name, str(path.parent)
    return path


@pytest.mark.parametrize('archive', ['cifar10', 'cifar100'], indirect=True)
def test_cifar_is_prepared_from_its_archive_without_tensorflow(archive, dataset_config):
    dataset = sources.load(dataset_config)
    test = dataset.splits['test']
    with tarfile.open(archive) as tar:
        [member] = [member for member in tar if 'test' in member.name]
        rows = np.frombuffer(tar.extractfile(member).read(), np.uint8).reshape(4, -1)
    order = [int(name.removeprefix('test_')) for name in test.ids]
    np.testing.assert_array_equal(test.labels, rows[order, -3073])
    np.testing.assert_array_equal(test.images.transpose(0, 3, 1, 2).reshape(4, -1), rows[order, -3072:])
    assert dataset.class_names[-1] == f'class{dataset.num_classes - 1}'
    assert 'tensorflow' not in sys.modules


def test_plain_tfds_reads_what_was_prepared(archive, dataset_config):
    import tensorflow_datasets as tfds

    ours = sources.load(dataset_config).splits['train']
    cifar.prepare('cifar10', Path(dataset_config.data_dir), '')  # another process was faster
    theirs = tfds.builder('cifar10', data_dir=dataset_config.data_dir).as_data_source('train')
    np.testing.assert_array_equal(ours.images, [example['image'] for example in theirs])
    assert [example['id'].decode() for example in theirs] == ours.ids.tolist()


def test_archive_with_another_checksum_is_refused(archive, dataset_config):
    archive.write_bytes(archive.read_bytes() + b'x')
    with pytest.raises(DataError, match=r'cifar-10-binary.tar.gz is damaged.*SHA-256.*Download https'):
        sources.load(dataset_config)


def test_archive_missing_from_manual_dir_is_named(archive, dataset_config):
    archive.unlink()
    with pytest.raises(DataError, match=r'manual_dir: no .*cifar-10-binary.tar.gz. Download https'):
        sources.load(dataset_config)


def test_archive_is_downloaded_once(archive, dataset_config, monkeypatch):
    dataset_config.manual_dir, content = '', archive.read_bytes()
    monkeypatch.setattr(cifar.urllib.request, 'urlopen', lambda url, timeout: io.BytesIO(content))
    assert len(sources.load(dataset_config).splits['train'].labels) == 20
    assert [path.name for path in archive.parents[1].glob('data/downloads/*.*')] == [archive.name]


def test_broken_download_is_not_kept(archive, dataset_config, monkeypatch):
    dataset_config.manual_dir = ''
    monkeypatch.setattr(cifar.urllib.request, 'urlopen', lambda url, timeout: io.BytesIO(b'<html>'))
    with pytest.raises(DataError, match='went wrong: try again'):
        sources.load(dataset_config)
    assert not list(archive.parents[1].glob('data/downloads/*.*'))


def test_no_network_is_said_with_the_ways_out(dataset_config, monkeypatch):
    def refuse(url, timeout):
        raise urllib.error.URLError('Name or service not known')

    monkeypatch.setattr(cifar.urllib.request, 'urlopen', refuse)
    with pytest.raises(DataError, match=r'Cannot download https.*not known.*manual_dir=DIR.*data_dir=DIR'):
        sources.load(dataset_config)
    assert not Path(dataset_config.data_dir).exists()


def test_silent_network_is_given_up_on(dataset_config, monkeypatch):
    assert cifar._CONNECT_SECONDS <= 10  # of 20 until it is said
    monkeypatch.setattr(cifar, '_CONNECT_SECONDS', 0.1)
    given_up = threading.Event()
    monkeypatch.setattr(cifar.urllib.request, 'urlopen', lambda url, timeout: given_up.wait(60))
    with pytest.raises(DataError, match=r'no answer within 0.1 s'):
        sources.load(dataset_config)
    given_up.set()


def test_data_dir_that_cannot_be_written_is_explained(dataset_config, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar.urllib.request, 'urlopen', lambda url, timeout: io.BytesIO())
    (tmp_path / 'data').write_text('a file')
    with pytest.raises(DataError, match=r'Cannot prepare cifar10 in .*--config.dataset.data_dir'):
        sources.load(dataset_config)
