"""A tiny TFDS dataset on disk, written without TensorFlow."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from configs.default import get_config


def write_dataset(data_dir, *, train=24, test=9, other=0, shape=(8, 8, 3), features=None, shards=1):
    """Prepares `tiny` 1.0.0 in data_dir: random images, labels 0, 1, 2, 0, … in three classes."""
    import tensorflow_datasets as tfds

    features = features or {
        'image': tfds.features.Image(shape=shape),
        'label': tfds.features.ClassLabel(names=['ant', 'bee', 'cat']),
    }

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = 'tiny'
        url_infos = None  # nothing to download
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            sizes = {'train': train, 'test': test, 'other': other}
            return {name: self._generate_examples(size) for name, size in sizes.items() if size}

        def _generate_examples(self, size):
            rng = np.random.default_rng(size)
            for index in range(size):
                buffer = io.BytesIO()
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels if shape[-1] == 3 else pixels[..., 0]).save(buffer, 'PNG')
                example = {'image': buffer.getvalue(), 'label': index % 3}
                yield index, {key: example[key] for key in features}

    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(num_shards=shards)
    Tiny(data_dir=data_dir).download_and_prepare(file_format='array_record', download_config=config)
    return data_dir / 'tiny' / '1.0.0'


@pytest.fixture(scope='session')
def tiny_master(tmp_path_factory):
    """The unchanged original, made once."""
    data_dir = tmp_path_factory.mktemp('tfds')
    write_dataset(data_dir, shards=2)
    return data_dir


@pytest.fixture
def dataset_config(tmp_path):
    """config.dataset with every folder inside tmp_path."""
    config = get_config().dataset
    config.data_dir, config.cache_dir = str(tmp_path / 'data'), str(tmp_path / 'cache')
    return config


@pytest.fixture
def tiny(dataset_config, tiny_master, tmp_path):
    """The folder of a copy of `tiny`, which dataset_config points to."""
    shutil.copytree(tiny_master, tmp_path / 'data')
    dataset_config.name = 'tiny'
    return tmp_path / 'data' / 'tiny' / '1.0.0'


@pytest.fixture
def write_tiny(dataset_config, tmp_path):
    """write_dataset into the folder dataset_config points to."""
    dataset_config.name = 'tiny'
    return lambda **options: write_dataset(tmp_path / 'data', **options)
