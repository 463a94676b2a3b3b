"""Prepares CIFAR-10 and CIFAR-100 as TFDS does, without TensorFlow.

TFDS needs TensorFlow for these two only to read the archive and to encode PNG files. Here a subclass of its
builder does both with Python's own means. All else is TFDS's: version, checksums, features and the order of
the records, so `tfds.builder('cifar10', data_dir=…)` reads the result.
"""

import functools
import hashlib
import io
import queue
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline import DataError, records
from input_pipeline.progress import track
from input_pipeline.writing import written

CLASSES = {'cifar10': 10, 'cifar100': 100}
SIDE = 32  # pixels
_CONNECT_SECONDS = 10  # until the server answers, name resolution included
_BLOCK = 2**20  # bytes


def prepare(name: str, root: Path, manual_dir: str) -> None:
    """Builds DATA_DIR/name/version from the official archive.

    Args:
        name: cifar10 or cifar100.
        root: folder of all datasets.
        manual_dir: where an archive downloaded by hand lies, or '' to download it.

    Raises:
        DataError: it cannot be downloaded, read or written.
    """
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder_cls = _builder_cls(name)
    try:
        builder = builder_cls(data_dir=root)
        if builder.data_path.exists():
            if records.find(name, root):  # another process was faster
                return
            raise DataError(f'{builder.data_path} has no dataset_info.json, so it is incomplete: remove it.')
        builder.archive = _archive(builder, root, manual_dir)
        root.mkdir(parents=True, exist_ok=True)
        builder.download_and_prepare(file_format='array_record')
    except DataError:
        raise
    except Exception as error:  # TFDS wraps a full disk, for one, in a RuntimeError
        if records.find(name, root):  # another process was faster
            return
        raise DataError(
            f'Cannot prepare {name} in {root}: {error}. Choose another folder with '
            '--config.dataset.data_dir=DIR, or make this one writable and free about 500 MB there.'
        ) from error


@functools.cache
def _builder_cls(name: str) -> type:
    """Returns TFDS's builder of the dataset, changed to do without TensorFlow.

    `archive`, a path, must be set on an instance before it prepares anything.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    original = tfds.builder_cls(name)

    class Cifar(original, skip_registration=True):
        # Read by hand: TFDS would look beside this file, with a package that it does not install.
        url_infos = checksums.load_url_infos(Path(tfds.__file__).parent / f'url_checksums/{name}.txt')

        def _split_generators(self, dl_manager):
            layout = self._cifar_info
            with tarfile.open(self.archive) as tar:
                files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
            for key, file in zip(layout.label_keys, layout.label_files, strict=True):
                self.info.features[key].names = files[layout.prefix + file].decode().split()
            return {
                split: self._generate_examples(
                    f'{split}_', [files[layout.prefix + file] for file in split_files]
                )
                for split, split_files in (('train', layout.train_files), ('test', layout.test_files))
            }

        def _generate_examples(self, split_prefix, filepaths):
            return _examples(b''.join(filepaths), self._cifar_info.label_keys, split_prefix)

    Cifar.name = name
    return Cifar


def _examples(content: bytes, label_keys: list[str], id_prefix: str) -> Iterator[tuple[int, dict]]:
    """Yields TFDS examples from CIFAR's binary format: a byte per label, then 3x32x32 bytes."""
    rows = np.frombuffer(content, np.uint8).reshape(-1, len(label_keys) + 3 * SIDE * SIDE)
    for index, row in enumerate(rows):
        labels, pixels = np.split(row, [len(label_keys)])
        buffer = io.BytesIO()
        Image.fromarray(pixels.reshape(3, SIDE, SIDE).transpose(1, 2, 0)).save(buffer, 'PNG')
        example = dict(zip(label_keys, labels.tolist(), strict=True))
        yield index, {**example, 'id': f'{id_prefix}{index:05d}', 'image': buffer.getvalue()}


def _archive(builder, root: Path, manual_dir: str) -> Path:
    """Returns the verified archive: from manual_dir, or downloaded before, or downloaded now."""
    url = builder._cifar_info.url
    filename = url.rpartition('/')[2]
    if manual_dir:
        archive = Path(manual_dir).expanduser() / filename
        if not archive.exists():
            raise DataError(f'config.dataset.manual_dir: no {archive}. Download {url} into that folder.')
        _verify(archive, builder.url_infos[url], f'Download {url} again')
        return archive
    archive = root / 'downloads' / filename
    if archive.exists():
        _verify(archive, builder.url_infos[url], 'Remove it, and it is downloaded again')
    else:
        _download(url, archive, builder.url_infos[url])
    return archive


def _verify(archive: Path, expected, way_out: str) -> None:
    """Compares a file with a UrlInfo of TFDS."""
    with open(archive, 'rb') as file:
        checksum = hashlib.file_digest(file, 'sha256').hexdigest()
    if checksum != expected.checksum:
        raise DataError(
            f'{archive} is damaged, or not the file that TFDS knows: {archive.stat().st_size:,} bytes with '
            f'SHA-256 {checksum}, where {expected.size:,} bytes with {expected.checksum} belong. {way_out}.'
        )


def _download(url: str, target: Path, expected) -> None:
    """Downloads a file; it appears under its name only when it is complete and right."""
    title = f'Downloading {url} ({expected.size / 1e6:,.0f} MB) to {target}'
    # Connected first: no folder is made where data_dir is mistyped.
    with _connect(url, target) as response, written(target) as temporary:
        with open(temporary, 'wb') as file:
            file.writelines(track(_blocks(response, url, target), expected.size, title))
        _verify(temporary, expected, f'The download from {url} went wrong: try again')


def _blocks(response, url: str, target: Path) -> Iterator[bytes]:
    try:
        while block := response.read(_BLOCK):
            yield block
    except Exception as error:  # resets, timeouts, incomplete reads: OSError, HTTPException, …
        raise _no_connection(url, target, error) from error


def _connect(url: str, target: Path):
    """Opens the URL, or raises DataError within _CONNECT_SECONDS.

    In a thread, because looking up a name knows no timeout: without a network it can take minutes.
    """
    answer = queue.Queue()

    def connect():
        try:
            answer.put(urllib.request.urlopen(url, timeout=_CONNECT_SECONDS))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        response = answer.get(timeout=_CONNECT_SECONDS)
    except queue.Empty:
        response = TimeoutError(f'no answer within {_CONNECT_SECONDS} s')
    if isinstance(response, Exception):
        raise _no_connection(url, target, response) from response
    return response


def _no_connection(url: str, target: Path, error: Exception) -> DataError:
    return DataError(
        f'Cannot download {url} ({error}). Is there a network? Otherwise download it elsewhere, and pass the '
        'folder it is in with --config.dataset.manual_dir=DIR; or pass the folder of a prepared dataset with '
        f'--config.dataset.data_dir=DIR (looked for in {target.parent.parent}).'
    )
