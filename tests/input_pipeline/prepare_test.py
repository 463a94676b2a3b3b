import pytest

from input_pipeline import DataError, sources


def test_dataset_that_needs_tensorflow_comes_with_the_command(dataset_config):
    dataset_config.name = 'mnist'
    with pytest.raises(DataError, match=r'tfds build mnist --file_format=array_record --data_dir='):
        sources.load(dataset_config)


def test_tfrecord_files_come_with_the_command_that_converts_them(dataset_config, tiny):
    info = tiny / 'dataset_info.json'
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(DataError, match=r'tfds convert_format --dataset_version_dir=.*array_record'):
        sources.load(dataset_config)


def test_mistyped_name_is_met_with_the_nearest(dataset_config):
    dataset_config.name = 'cifar_10'
    with pytest.raises(DataError, match=r'Did you mean cifar10'):
        sources.load(dataset_config)
