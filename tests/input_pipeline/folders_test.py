import errno
import os

import pytest

from input_pipeline import DataError, folders


@pytest.fixture
def tree(tmp_path):
    """Makes empty files under tmp_path."""

    def make(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        return tmp_path

    return make


def test_splits_classes_and_loose_images_are_told_apart(tree):
    listing = folders.scan(tree('train/b/2.png', 'train/a/1.jpg', 'dev/b/3.png', 'loose/4.png'))
    assert listing.class_names == ('a', 'b')
    found = {split: [(item.id, item.label) for item in items] for split, items in listing.splits.items()}
    assert found == {
        'dev': [('dev/b/3.png', 1)],
        'loose': [('loose/4.png', -1)],
        'train': [('train/a/1.jpg', 0), ('train/b/2.png', 1)],
    }


def test_split_of_other_people_has_no_labels(tree):
    listing = folders.scan(tree('train/b/2.png', 'train/a/1.jpg', 'ver_data/Ann/1.png', 'ver_data/2.png'))
    found = [(item.id, item.label) for item in listing.splits['ver_data']]
    assert found == [('ver_data/2.png', -1), ('ver_data/Ann/1.png', -1)]


def test_layout_with_cls_data_is_recognised(tree):
    files = ('cls_data/train/a/1.png', 'cls_data/train/b/1.png', 'cls_data/dev/a/1.png', 'ver_data/x.png')
    listing = folders.scan(tree(*files, 'val_pairs.txt'))
    assert set(listing.splits) == {'train', 'dev', 'ver_data'}
    assert listing.splits['dev'][0].id == 'cls_data/dev/a/1.png'


def test_folders_of_images_alone_are_classes_of_train(tree):
    listing = folders.scan(tree('golden retriever/1.png', 'cat/2.png', 'cat/more/3.png', 'readme.png'))
    assert (listing.class_names, listing.ignored) == (('cat', 'golden retriever'), {'.png': 1})
    found = {split: [(item.id, item.label) for item in items] for split, items in listing.splits.items()}
    assert found == {'train': [('cat/2.png', 0), ('cat/more/3.png', 0), ('golden retriever/1.png', 1)]}


@pytest.mark.parametrize('folder', ['train/', ''])
def test_class_of_files_that_are_no_images_is_named(tree, folder):
    path = tree(*(f'{folder}{name}' for name in ('a/1.png', 'b/2.tif', 'c/3.heic', 'c/.4.png', 'd/.5')))
    with pytest.raises(DataError, match=r'of class c there are files, .*\(\.heic; not \.jpg, .*move that'):
        folders.scan(path)


def test_what_is_no_image_is_counted(tree):
    files = ('train/a/1.PNG', 'train/b/2.JpEg', 'train/c d/ä.webp', 'train/e/deep/3.bmp', 'dev/a/1.pgm')
    listing = folders.scan(tree(*files, 'train/a/.1.png', 'train/a/Thumbs.db', 'readme.txt', '.git/x/1.png'))
    assert listing.class_names == ('a', 'b', 'c d', 'e')
    assert sum(map(len, listing.splits.values())) == 5
    assert listing.ignored == {'.png': 1, '.db': 1, '.txt': 1}


def test_links_are_followed_but_not_in_circles(tree):
    root = tree('train/a/1.png', 'elsewhere/1.png')
    (root / 'train/b').symlink_to(root / 'elsewhere')
    (root / 'train/a/up').symlink_to(root)
    assert [item.id for item in folders.scan(root).splits['train']] == ['train/a/1.png', 'train/b/1.png']


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ((), 'holds no images'),
        (('train/a/notes.txt',), 'holds no images'),
        (('val/a/1.png', 'a/2.png'), 'no images in train, but in a, val. It must hold train/<class>/'),
        (('cat/1.png', 'dog/1.png', 'Test/1.png'), 'no images in train, but in Test, cat, dog'),
        (('cat/1.png', 'dog/new/1.png'), 'If these are classes, move their folders into .*train'),
        (('train/a/1.png', 'dev/a/1.png'), 'only one class, a: a classifier needs two'),
        (('train/1.png', 'train/2.png'), 'no class folders'),
        (
            ('train/a/1.png', 'train/b/1.png', 'dev/a/1.png', 'dev/c/1.png'),
            'dev of .* has classes that train lacks: c',
        ),
        (('train/1.png', 'train/a/2.png'), 'train of .* has images beside its class folders'),
        (
            ('train/a/1.png', 'train/b/1.png', 'train/1.png'),
            'train of .* has images beside its class folders',
        ),
        (('train/a/1.png', 'train/b/1.png', 'my dev/a/1.png'), r'my dev: .*Rename that folder'),
        (('train/a /1.png', 'train/b/1.png'), "class 'a ' begins or ends with a space"),
        (('train/a\rb/1.png', 'train/b/1.png'), 'has a line break'),
    ],
)
def test_folder_that_cannot_be_used_is_explained(tree, tmp_path, files, message):
    tree(*files)
    with pytest.raises(DataError, match=message):
        folders.scan(tmp_path)


def test_folders_that_cannot_be_listed_are_errors_or_left_out(tree, monkeypatch):
    def scandir(path, scandir=os.scandir):
        if path.endswith('lost'):
            raise PermissionError(errno.EACCES, 'Permission denied', path)
        return scandir(path)

    root, errors = tree('cat/1.png', 'lost/2.png'), []
    monkeypatch.setattr(os, 'scandir', scandir)
    with pytest.raises(DataError, match=r'Cannot list .*lost: Permission denied'):
        folders.scan(root)
    assert [path for path, *_ in folders.walk(root, on_error=errors.append)] == ['cat/1.png']
    assert len(errors) == 1


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r'config.dataset.folder: .*nowhere is no folder'):
        folders.scan(tmp_path / 'nowhere')
