import json
import sys
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from PIL import Image

from input_pipeline import DataError, decoding, records, sources


def test_digits_are_full_range_grey_images_with_a_stratified_test_split(dataset_config):
    dataset_config.name = 'digits'
    dataset = sources.load(dataset_config)
    train, test = dataset.splits['train'], dataset.splits['test']
    assert (len(train.labels), len(test.labels), dataset.num_classes) == (1437, 360, 10)
    assert dataset.image_shape == (8, 8, 1)
    assert train.images.dtype == np.uint8
    assert train.images.max() == 255
    assert np.bincount(test.labels).min() >= 34
    assert test.ids[3] == 'test-3'


def test_tfds_splits_hold_what_tfds_itself_reads(dataset_config, tiny):
    import tensorflow_datasets as tfds

    dataset = sources.load(dataset_config)
    expected = tfds.builder_from_directory(tiny).as_data_source('train')
    train = dataset.splits['train']
    np.testing.assert_array_equal(train.images, [example['image'] for example in expected])
    np.testing.assert_array_equal(train.labels, [example['label'] for example in expected])
    assert train.ids[23] == 'train-23'
    assert (dataset.version, dataset.class_names) == ('1.0.0', ('ant', 'bee', 'cat'))
    assert train.labels.dtype == np.int32
    assert 'tensorflow' not in sys.modules


def test_second_load_decodes_nothing(dataset_config, tiny, monkeypatch):
    first = sources.load(dataset_config)
    monkeypatch.setattr(records, 'Records', None)
    second = sources.load(dataset_config)
    assert isinstance(second.splits['test'].images, np.memmap)
    for split in ('train', 'test'):
        for stored, fresh in zip(second.splits[split], first.splits[split], strict=True):
            np.testing.assert_array_equal(stored, fresh)


def test_changed_source_is_decoded_again(dataset_config, tiny, write_tiny):
    sources.load(dataset_config)
    for path in tiny.iterdir():
        path.unlink()
    tiny.rmdir()
    write_tiny(train=30)
    assert len(sources.load(dataset_config).splits['train'].labels) == 30


def test_several_processes_decode_as_one_does(dataset_config, tiny, monkeypatch):
    alone = sources.load(dataset_config, ['train']).splits['train']
    dataset_config.cache_dir += '2'
    monkeypatch.setattr(decoding, 'process_count', lambda images, encoded_bytes: 2)
    monkeypatch.setattr(records, '_CHUNK_BYTES', 5 * 8 * 8 * 3)
    together = sources.load(dataset_config, ['train']).splits['train']
    np.testing.assert_array_equal(together.images, alone.images)
    np.testing.assert_array_equal(together.labels, alone.labels)


def test_decoding_goes_on_here_where_workers_cannot_start(dataset_config, tiny, monkeypatch):
    original = decoding.decode_all

    def decode_all(chunks, shape, processes, **options):
        if processes > 1:
            raise BrokenProcessPool
        return original(chunks, shape, processes, **options)

    monkeypatch.setattr(decoding, 'process_count', lambda images, encoded_bytes: 2)
    monkeypatch.setattr(decoding, 'decode_all', decode_all)
    assert len(sources.load(dataset_config).splits['train'].labels) == 24


def test_empty_split_is_told_from_a_damaged_one(dataset_config, tiny):
    info = tiny / 'dataset_info.json'
    content = json.loads(info.read_text())
    for split in content['splits']:
        if split['name'] == 'test':
            split['shardLengths'] = ['0'] * len(split['shardLengths'])
    info.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r'Split test of tiny/1.0.0 in .* holds no images'):
        sources.load(dataset_config)


def test_missing_shard_is_named(dataset_config, tiny):
    (tiny / 'tiny-train.array_record-00001-of-00002').unlink()
    with pytest.raises(DataError, match=r'missing: tiny-train.array_record-00001-of-00002'):
        sources.load(dataset_config)


@pytest.mark.parametrize('kept', [0, 100, 65536])
def test_truncated_shard_is_named(dataset_config, tiny, kept):
    shard = tiny / 'tiny-train.array_record-00001-of-00002'
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(DataError, match=r'tiny-train.array_record-00001-of-00002'):
        sources.load(dataset_config)


def test_wrong_shard_length_is_not_silently_believed(dataset_config, tiny):
    info = json.loads((tiny / 'dataset_info.json').read_text())
    info['splits'][0]['shardLengths'][0] = '11'
    (tiny / 'dataset_info.json').write_text(json.dumps(info))
    with pytest.raises(DataError, match='has 12 records where 11 belong'):
        sources.load(dataset_config)


@pytest.mark.parametrize('file', ['dataset_info.json', 'features.json'])
def test_damaged_description_is_named(dataset_config, tiny, file):
    (tiny / file).write_text('{"a":')
    with pytest.raises(DataError, match=r'cannot be read|is damaged'):
        sources.load(dataset_config)


def test_undecodable_image_is_named(dataset_config, tiny, monkeypatch):
    decode, sizes = decoding.decode, []

    def decode_but_record_7(encoded, *args, **keys):
        if sum(sizes) <= 7 < sum(sizes) + len(encoded):
            encoded[7 - sum(sizes)] = b'no image'
        sizes.append(len(encoded))
        return decode(encoded, *args, **keys)

    monkeypatch.setattr(records, '_CHUNK_BYTES', 5 * 8 * 8 * 3)
    monkeypatch.setattr(decoding, 'decode', decode_but_record_7)
    with pytest.raises(DataError, match='image in record 7 is damaged'):
        sources.load(dataset_config)
    assert len(sizes) > 1


def test_size_that_is_not_declared_is_that_of_the_first_image(dataset_config, write_tiny):
    write_tiny(shape=(None, None, 3))
    assert sources.load(dataset_config).image_shape == (8, 8, 3)


def test_splits_of_different_sizes_are_refused_whatever_is_cached(config_of_two_sizes):
    for splits in (['train'], ['train', 'dev'], ['dev'], ['train', 'dev']):
        if len(splits) == 1:
            sources.load(config_of_two_sizes, splits)
            continue
        with pytest.raises(DataError, match=r'train 8 x 8 x 3, dev 6 x 6 x 3.*image_size=PIXELS'):
            sources.load(config_of_two_sizes, splits)


@pytest.fixture
def config_of_two_sizes(dataset_config, tmp_path):
    for split, side in (('train', 8), ('dev', 6)):
        for name in ('ant', 'bee'):
            path = tmp_path / 'folder' / split / name / '0.png'
            path.parent.mkdir(parents=True)
            Image.new('RGB', (side, side)).save(path)
    dataset_config.name, dataset_config.folder = 'insects', str(tmp_path / 'folder')
    return dataset_config


def test_images_are_resized_on_request(dataset_config, tiny):
    dataset_config.image_size = 4
    assert sources.load(dataset_config).splits['test'].images.shape == (9, 4, 4, 3)


def test_digits_are_not_resized(dataset_config):
    dataset_config.name, dataset_config.image_size = 'digits', 16
    with pytest.raises(DataError, match='image_size: the digits have 8 x 8 pixels'):
        sources.load(dataset_config)


def test_grey_images_keep_one_channel(dataset_config, write_tiny):
    write_tiny(shape=(8, 8, 1))
    assert sources.load(dataset_config).image_shape == (8, 8, 1)


def test_dataset_without_labels_is_refused(dataset_config, write_tiny):
    import tensorflow_datasets as tfds

    write_tiny(features={'image': tfds.features.Image(shape=(8, 8, 3))})
    with pytest.raises(DataError, match='it has image, but needs the features `image` and `label`'):
        sources.load(dataset_config)


def test_unknown_split_lists_those_there_are(dataset_config, tiny):
    with pytest.raises(DataError, match=r"no split 'validation'; it has (train, test|test, train)"):
        sources.load(dataset_config, ['validation'])


@pytest.mark.parametrize('folder', ['data/tiny', 'data/tiny/1.0.0'])
def test_folder_of_one_dataset_as_data_dir_is_explained(dataset_config, tiny, tmp_path, folder):
    dataset_config.data_dir = str(tmp_path / folder)
    with pytest.raises(DataError, match=rf'--config.dataset.data_dir={tmp_path}/data$'):
        sources.load(dataset_config)


def test_data_dir_defaults_to_that_of_tfds(dataset_config, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', dataset_config.data_dir)
    dataset_config.data_dir = ''
    assert sources.load(dataset_config, ['test']).num_classes == 3


def test_newest_version_is_read_unless_another_is_asked_for(dataset_config, tiny):
    newer = json.loads((tiny / 'dataset_info.json').read_text()) | {'version': '1.0.10'}
    tiny.rename(tiny.with_name('1.0.9'))
    folder = tiny.with_name('1.0.10')
    folder.mkdir()
    (folder / 'dataset_info.json').write_text(json.dumps(newer))
    assert records.find('tiny', tiny.parent.parent).version == '1.0.10'
    assert records.find('tiny:1.0.9', tiny.parent.parent).version == '1.0.9'


def test_unwritable_cache_dir_is_explained(dataset_config, tiny, tmp_path):
    (tmp_path / 'cache').write_text('a file, so nothing can be written below it')
    with pytest.raises(DataError, match=r'--config.dataset.cache_dir'):
        sources.load(dataset_config)
