import pytest
from PIL import Image

from input_pipeline import DataError, cifar, prepare, sources


def test_dataset_that_needs_tensorflow_comes_with_the_command(dataset_config):
    dataset_config.name = 'mnist'
    with pytest.raises(DataError, match=r'tfds build mnist --file_format=array_record --data_dir='):
        sources.load(dataset_config)


def test_tfrecord_files_come_with_the_command_that_converts_them(dataset_config, tiny):
    info = tiny / 'dataset_info.json'
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(DataError, match=r'tfds convert_format --dataset_version_dir=.*array_record'):
        sources.load(dataset_config)


@pytest.mark.parametrize(
    ('name', 'meant'), [('cifar_10', 'cifar10'), ('imagenet', 'imagenet2012'), ('SVHN', 'svhn_cropped')]
)
def test_mistyped_name_is_met_with_the_nearest(dataset_config, name, meant):
    dataset_config.name = name
    with pytest.raises(DataError, match=f'Did you mean {meant}'):
        sources.load(dataset_config)


@pytest.mark.parametrize('name', ['/data/faces', '..', 'a/b/c', ''])
def test_folder_given_as_a_name_is_told_so(dataset_config, name):
    dataset_config.name = name
    with pytest.raises(
        DataError, match=rf'config\.dataset\.name={name}: .* --config\.dataset\.folder={name}$'
    ):
        sources.load(dataset_config)


def test_version_that_is_not_there_needs_no_tensorflow(dataset_config, monkeypatch):
    monkeypatch.setattr(cifar, 'prepare', lambda *_: None)
    dataset_config.name = 'cifar10:1.0.0'
    with pytest.raises(DataError, match=r'Use config\.dataset\.name=cifar10\.'):
        sources.load(dataset_config)


@pytest.mark.parametrize('name', ['cifar10', 'digits'])
def test_folder_does_not_take_the_name_of_another_dataset(name):
    derived = prepare.folder_dataset_name(name, '/data/My Faces!')
    assert derived.startswith('folder_my_faces_')
    assert prepare.folder_dataset_name(derived, '/elsewhere') == derived
    assert prepare.folder_dataset_name(name, '/other/My Faces!') != derived


def test_command_prepares_a_folder(tmp_path, capfd):
    for path in ('train/a/1.png', 'train/b/2.png'):
        (tmp_path / path).parent.mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(tmp_path / path)
    arguments = [f'--folder={tmp_path}', f'--data_dir={tmp_path / "data"}']
    prepare.main([*arguments, '--name=two'])
    assert 'train 2 images, 2 classes' in capfd.readouterr().err
    with pytest.raises(SystemExit, match='error: --name=mnist is another dataset already'):
        prepare.main([*arguments, '--name=mnist'])
    with pytest.raises(SystemExit, match=r'error: config.dataset.name=Two/3'):
        prepare.main([*arguments, '--name=Two/3'])
    with pytest.raises(SystemExit, match='2'):
        prepare.main([*arguments, '--name=three', '--workers=-3'])
    assert '--workers=-3: must be' in capfd.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        prepare.main(['--folder=', '--name=two'])
    assert '--folder is empty' in capfd.readouterr().err
