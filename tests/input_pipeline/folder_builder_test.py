import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from input_pipeline import DataError, folder_builder, folder_shards, prepare, sources


@pytest.fixture
def folder(tmp_path):
    """Images of two classes in train and dev, 10 x 8 pixels, and two loose ones of other sizes."""
    rng = np.random.default_rng(0)
    root = tmp_path / 'faces'
    names = [f'train/{c}/{i}.png' for c in ('Zoë Ü', 'ann') for i in range(5)]
    for name in [*names, 'dev/Zoë Ü/1.jpg', 'dev/ann/1.png']:
        write(root / name, rng.integers(0, 256, (10, 8, 3), np.uint8))
    for side in (7, 30):
        write(root / f'ver_data/{side}.png', rng.integers(0, 256, (side, 9), np.uint8))
    return root


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def config(dataset_config, folder):
    dataset_config.name, dataset_config.folder, dataset_config.image_size = 'faces', str(folder), 8
    return dataset_config


def find(config, splits=('train', 'dev')):
    return prepare.find_or_prepare(config, splits)


def report(config):
    return json.loads((find(config).folder / folder_builder.REPORT).read_text())


def test_tfds_reads_what_was_prepared(config, folder):
    find(config)
    builder = tfds.builder('faces', data_dir=config.data_dir)
    assert builder.info.features['label'].names == ['Zoë Ü', 'ann']
    for split, size in (('train', 10), ('dev', 2), ('ver_data', 2)):
        examples = list(builder.as_data_source(split))
        assert len(examples) == size
        for example in examples:
            path = example['id'].decode()
            pixels = np.asarray(Image.open(folder / path).convert('RGB'))
            np.testing.assert_array_equal(example['image'], pixels)
            label = ['Zoë Ü', 'ann'].index(path.split('/')[1]) if split != 'ver_data' else -1
            assert example['label'] == label
    assert 'tensorflow' not in sys.modules


def test_folder_is_loaded_resized_with_loose_images_unlabelled(config):
    dataset = sources.load(config, ('train', 'ver_data'))
    assert dataset.class_names == ('Zoë Ü', 'ann')
    assert dataset.splits['train'].images.shape == (10, 8, 8, 3)
    loose = dataset.splits['ver_data']
    assert isinstance(loose.images, np.memmap)
    assert (loose.images.shape, loose.labels.tolist()) == ((2, 8, 8, 3), [-1, -1])
    assert set(loose.ids) == {'ver_data/7.png', 'ver_data/30.png'}


def test_other_image_size_is_decoded_anew(config):
    sources.load(config, ('train',))
    config.image_size = 4
    assert sources.load(config, ('train',)).image_shape == (4, 4, 3)


@pytest.mark.parametrize('loader', ['resident', 'streaming'])
def test_without_image_size_all_must_have_one_size(config, loader):
    config.image_size, config.loader = 0, loader
    assert sources.load(config, ('train',)).image_shape == (10, 8, 3)
    with pytest.raises(DataError, match=r'not all of one size.*--config.dataset.image_size='):
        sources.load(config, ('ver_data',)).splits['ver_data'].images[:]


def test_unchanged_folder_is_not_prepared_again(config, folder, monkeypatch):
    first = find(config)
    monkeypatch.setattr(folder_shards, '_write_shard', None)
    assert find(config) == first
    shutil.move(folder, folder.with_name('gone'))
    assert find(config) == first  # what was prepared outlives the folder
    config.folder = str(folder.with_name('gone'))
    assert find(config) == first  # the same files elsewhere


def test_changed_folder_is_prepared_anew(config, folder, capfd):
    first = find(config)
    (folder / 'train/ann/0.png').unlink()
    assert find(config).fingerprint != first.fingerprint
    assert 'has changed since' in capfd.readouterr().err
    assert len(sources.load(config, ('train',)).splits['train'].ids) == 9
    assert not list(find(config).folder.parent.glob('*incomplete'))


def test_newer_version_under_the_name_is_not_taken_for_the_folder(config):
    first = find(config)
    shutil.copytree(first.folder, first.folder.with_name('2.0.0'))
    assert find(config) == first


def test_two_folders_do_not_share_a_name(config, folder):
    find(config)
    other = folder.with_name('other')
    shutil.copytree(folder, other, copy_function=shutil.copyfile)
    config.folder = str(other)
    with pytest.raises(DataError, match=r'was prepared from .*faces, not from .*other: choose another name'):
        find(config)


def test_dataset_that_is_no_folder_is_not_replaced(config, tiny):
    config.name = 'tiny'
    with pytest.raises(DataError, match='was not prepared from a folder: choose another name than tiny'):
        find(config)


def test_missing_split_is_met_before_preparing(config, tmp_path):
    with pytest.raises(DataError, match=r"no split 'test'; it has dev, train, ver_data.*test_split"):
        find(config, ('train', 'test'))
    assert not (tmp_path / 'data').exists()


def test_unreadable_images_fail_with_their_paths(config, folder):
    (folder / 'train/ann/0.png').write_bytes(b'')
    (folder / 'train/ann/1.png').write_bytes(b'text')
    with pytest.raises(DataError, match=r'2 found: train/ann/0.png \(empty file\); .*bad_images=skip'):
        find(config)
    (folder / 'train/ann/0.png').unlink()
    (folder / 'train/ann/1.png').unlink()
    assert len(sources.load(config, ('train',)).splits['train'].ids) == 8


def test_unreadable_images_are_skipped_and_listed(config, folder, capfd):
    (folder / 'train/ann/0.png').write_bytes(b'text')
    (folder / 'dev/ann/2.png').symlink_to('nowhere')
    config.bad_images = 'skip'
    assert len(sources.load(config, ('train',)).splits['train'].ids) == 9
    printed = capfd.readouterr().err
    assert 'is prepared: dev 2, train 9, ver_data 2 images' in printed
    assert 'warning: 2 images were unreadable and left out: dev/ann/2.png' in printed
    assert [path for path, _ in report(config)['unreadable']] == ['dev/ann/2.png', 'train/ann/0.png']
    config.bad_images = 'fail'
    with pytest.raises(DataError, match=r'2 found: dev/ann/2\.png'):
        find(config)


def test_unreadable_images_of_finished_and_new_shards_are_listed_together(config, folder, monkeypatch):
    monkeypatch.setattr(folder_shards, '_IMAGES', 4)
    for name in ('train/ann/0.png', 'train/Zoë Ü/4.png'):
        (folder / name).write_bytes(b'text')
    with pytest.raises(DataError, match='2 found'):
        find(config)
    shards = Path(config.data_dir).glob('faces/*incomplete/*.json')
    next(path for path in shards if '4.png",' in path.read_text()).unlink()  # as if killed before
    config.bad_images = 'skip'
    assert [path for path, _ in report(config)['unreadable']] == ['train/Zoë Ü/4.png', 'train/ann/0.png']


def test_class_without_a_readable_image_is_an_error(config, folder):
    for path in folder.glob('train/ann/*'):
        path.write_bytes(b'text')
    config.bad_images = 'skip'
    with pytest.raises(DataError, match=r'None of the training images of class ann in .* can be read'):
        find(config)


def test_images_of_train_in_another_split_are_reported(config, folder, capfd):
    Image.open(folder / 'train/ann/3.png').save(folder / 'dev/ann/again.bmp')
    find(config)
    assert 'warning: 1 images of other splits are in train too' in capfd.readouterr().err
    assert report(config)['duplicates'] == [['train/ann/3.png', 'dev/ann/again.bmp']]


def test_preparation_goes_on_with_the_shards_it_finished(config, monkeypatch):
    write_shard, written = folder_shards._write_shard, []

    def stop_at_third(folder, work, shard):
        if len(written) == 2:
            (work / f'{shard.name}.array_record').write_bytes(b'half')  # without its .json
            raise KeyboardInterrupt
        written.append(shard.name)
        return write_shard(folder, work, shard)

    monkeypatch.setattr(folder_shards, '_IMAGES', 4)
    monkeypatch.setattr(folder_shards, '_write_shard', stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        find(config)
    first = list(written)
    monkeypatch.setattr(
        folder_shards, '_write_shard', lambda *a: written.append(a[2].name) or write_shard(*a)
    )
    resumed = sources.load(config, ('train', 'dev'))
    assert len(written) == len(set(written)) > len(first)
    config.name = 'once'
    once = sources.load(config, ('train', 'dev'))
    for split in ('train', 'dev'):
        for one, other in zip(resumed.splits[split], once.splits[split], strict=True):
            np.testing.assert_array_equal(one, other)


def test_full_disk_is_explained_and_loses_nothing(config, monkeypatch):
    def fail(*args, **keys):
        raise RuntimeError('write() failed: No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(tfds.folder_dataset, 'write_metadata', fail)  # when the shards are in place
        with pytest.raises(DataError, match=r'Cannot prepare faces in .*No space left.*data_dir=DIR'):
            find(config)
    monkeypatch.setattr(folder_shards, '_write_shard', None)
    assert len(sources.load(config, ('train',)).splits['train'].ids) == 10


def test_killed_workers_leave_nothing_half(config, folder, tmp_path):
    for index in range(60):
        shutil.copy(folder / 'train/ann/0.png', folder / f'train/ann/copy{index}.png')
    script = tmp_path / 'slow.py'
    script.write_text(
        'import time\n'
        'from input_pipeline import conversion, folder_shards, prepare\n'
        'standardize = conversion.standardize\n'
        'conversion.standardize = lambda content: time.sleep(0.05) or standardize(content)\n'
        'folder_shards._IMAGES = 4\n'
        "if __name__ == '__main__':\n"
        '    prepare.main()\n'
    )
    data_dir = tmp_path / 'data'
    command = [sys.executable, script, f'--folder={folder}', f'--data_dir={data_dir}', '--name=faces']
    environment = {**os.environ, 'PYTHONPATH': str(Path(prepare.__file__).parents[1])}
    process = subprocess.Popen([*command, '--workers=2'], stderr=subprocess.DEVNULL, env=environment)
    while len(list(data_dir.glob('faces/*incomplete/*.json'))) < 2 and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (data_dir / 'faces/1.0.0').exists()
    assert len(sources.load(config, ('train',)).splits['train'].ids) == 70
