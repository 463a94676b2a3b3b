from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import DataError
from input_pipeline.sources import Split
from training import pairs

IDS = np.array(['ver_data/z.png', 'ver_data/a.png', 'ver_data/b.png', 'ver_data/c d.png'])
IMAGES = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
SPLIT = Split(IMAGES, np.full(4, -1, np.int32), IDS)


def values(found):
    """The pixels of each pair's images."""
    return pairs.pair_images(found, SPLIT, 'ver_data').images(np.arange(len(found.names))).squeeze((2, 3, 4))


@pytest.fixture
def read(tmp_path):
    def read(text, name='pairs.txt'):
        file = tmp_path / name
        file.write_text(text)
        return pairs.read(file)

    return read


def test_names_are_found_with_and_without_their_folder(read):
    found = read('ver_data/a.png b.png 1\n\nb.png ver_data/b.png 0\n')
    assert found.labels.tolist() == [True, False]
    assert found.folds is None
    np.testing.assert_array_equal(values(found), [[1, 2], [2, 2]])


@pytest.mark.parametrize('layout', ['', 'dev/', 'cls_data/dev/', './dev/', './cls_data/dev/'])
@pytest.mark.parametrize('prefix', ['dev/', 'cls_data/dev/'])
def test_names_of_a_split_of_people_are_found(read, layout, prefix):
    ids = np.array([f'{prefix}ann/{name}.png' for name in 'ba'])
    found = read(f'{layout}ann/a.png {layout}ann/b.png\n')
    assert pairs.pair_images(found, Split(IMAGES[:2], np.zeros(2), ids), 'dev').rows.tolist() == [[1, 0]]


def test_file_is_looked_for_in_the_folder_of_images_too(tmp_path, monkeypatch):
    (tmp_path / 'faces').mkdir()
    (tmp_path / 'faces' / 'pairs.txt').touch()
    monkeypatch.chdir(tmp_path)
    assert pairs.find_file('pairs.txt', 'faces', 'key') == Path('faces/pairs.txt')
    (tmp_path / 'pairs.txt').touch()
    assert pairs.find_file('pairs.txt', 'faces', 'key') == Path('pairs.txt')
    assert pairs.find_file('pairs.txt', '', 'key') == Path('pairs.txt')
    with pytest.raises(DataError, match=r'pairs=x: there is no .*/x or .*/faces/x\. .* --pairs=FILE'):
        pairs.find_file('x', 'faces', 'pairs')


def test_unlabelled_pairs_and_folds(read):
    assert read('a.png b.png\n').labels is None
    assert read('a.png b.png 1 2\na.png b.png 0 10').folds.tolist() == ['2', '10']


@pytest.mark.parametrize(
    ('text', 'name'),
    [
        ('left,right,same\na.png,c d.png,1\n', 'pairs.csv'),
        ('\ufeffleft,right,same\r\n"ver_data/a.png", c d.png,1\r\n\r\n', 'pairs.CSV'),
        ('\na.png\tc d.png\t1\n', 'pairs.txt'),
    ],
)
def test_names_may_have_spaces_in_csv_and_between_tabs(read, text, name):
    found = read(text, name)
    assert found.labels.tolist() == [True]
    np.testing.assert_array_equal(values(found), [[1, 3]])


@pytest.mark.parametrize(
    ('text', 'name', 'expected'),
    [
        ('', 'pairs.txt', 'holds no pairs'),
        ('left,right\n', 'pairs.csv', 'holds no pairs'),
        ('a b 1\na b\n', 'pairs.txt', "line 2: expected 3 columns, as above; found 'a b'"),
        ('a b 1\n\na b 2\n', 'pairs.txt', "line 3: the label must be 0 or 1; found '2'"),
        ('a\n', 'pairs.txt', r"line 1: expected image image \[0 or 1 \[fold\]\]; found 'a'"),
        ('left,right,same\n,b,1\n', 'pairs.csv', 'line 2: expected image image'),
        ('a,b,1\n', 'pairs.csv', 'line 1: a .csv file begins with a header'),
        ('left,right\na,b\n"c,d\ne,f\n', 'pairs.csv', 'line 3: .*is a quotation mark not closed'),
        ('left,right\n"a,b' + 'x' * 200_000, 'pairs.csv', 'line 2: field larger than'),
        ('a.png,b.png\n', 'pairs.csv', 'line 1: a .csv file begins with a header'),
    ],
)
def test_malformed_lines_are_named(read, text, name, expected):
    with pytest.raises(DataError, match=f'{name}.*{expected}'):
        read(text, name)


def test_file_that_is_no_text_or_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r'missing\.txt cannot be read'):
        pairs.read(tmp_path / 'missing.txt')
    (tmp_path / 'image.txt').write_bytes(b'\x89PNG\xff')
    with pytest.raises(DataError, match=r'image\.txt cannot be read'):
        pairs.read(tmp_path / 'image.txt')


def test_each_image_is_used_once(read):
    found = pairs.pair_images(read('a.png b.png\nb.png a.png\n'), SPLIT, 'ver_data')
    assert found.used.tolist() == [1, 2]
    assert found.rows.tolist() == [[0, 1], [1, 0]]


def test_folder_may_hold_one_of_its_own_name(read, tmp_path):
    folder = tmp_path / 'lfw'
    for index, name in enumerate(('a.png', 'lfw/a.png', 'lfw/b.png')):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (2, 2), (index, 0, 0)).save(folder / name)
    found = pairs.read_images(read('a.png lfw/a.png\nlfw/lfw/b.png lfw/b.png\n'), folder, (2, 2, 3))
    assert found.images(np.arange(2))[..., 0, 0, 0].tolist() == [[0, 1], [2, 2]]


def test_missing_images_are_named_with_their_line(read):
    found = read('a.png b.png\n\na.png x.png\ny.png x.png\n')
    expected = r"pairs\.txt, line 3: there is no image 'x\.png' in ver_data \(2 of the images"
    with pytest.raises(DataError, match=expected):
        pairs.pair_images(found, SPLIT, 'ver_data')


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        (3 * 'a b 1\n', r'of 3 pairs 3 are genuine \(1\) and 0 impostors \(0\): a ROC'),
        (2 * 'a b 0\n', 'of 2 pairs 0 are genuine'),
        ('a b 1 1\na b 0 1\n', 'of 0 pairs outside of fold 1 0 are genuine'),
        (5 * 'a b 1 A\n' + 5 * 'a b 0 B\n', 'of 5 pairs outside of fold A 0 are genuine'),
    ],
)
def test_what_has_no_curve_is_refused(read, text, expected):
    with pytest.raises(DataError, match=rf'pairs\.txt: {expected}'):
        pairs.check_labels(read(text))
