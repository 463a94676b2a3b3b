"""Finds prepared datasets, prepares what it can, and says how to prepare the others.

Makes a TFDS dataset of an image folder, laid out as folders.scan wants it:

  python -m input_pipeline.prepare --folder=DIR --name=NAME [--data_dir=DIR] [--bad_images=skip] [--workers=N]
"""

import argparse
import difflib
import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from input_pipeline import DataError, cifar, folder_builder, records

# The command line of TFDS imports all of these, and TFDS itself requires none of them.
_CLI = 'pip install tensorflow apache-beam mlcroissant importlib_resources && tfds'


def find_or_prepare(config: ConfigDict, splits: Sequence[str], workers: int = 0) -> records.Prepared:
    """Finds a prepared dataset in array_record format, or prepares it: a folder, or CIFAR.

    Args:
        config: config.dataset; reads name (as TFDS has it: name or name/config, either with :version),
            data_dir, manual_dir, folder and bad_images.
        splits: that it must have.
        workers: processes that prepare a folder; 0: as many as pay.

    Raises:
        DataError: if it is not there and cannot be prepared, or lacks a split.
    """
    root = (Path(config.data_dir) if config.data_dir else records.default_data_dir()).expanduser().absolute()
    if config.folder:
        name = folder_dataset_name(config.name, config.folder)
        return folder_builder.find_or_build(
            config.folder,
            name,
            root,
            bad_images=config.bad_images,
            splits=splits,
            workers=workers,
        )
    name = config.name
    if not re.fullmatch(r'[\w.-]+(/[\w.-]+)?(:[\w.]+)?', name) or '..' in name:
        raise DataError(
            f'config.dataset.name={name}: names of TFDS are like cifar10, name/config or cifar10:3.0.2. To '
            f'train on a folder of images: --config.dataset.folder={name}'
        )
    try:
        prepared = records.find(name, root)
    except OSError as error:
        raise DataError(f'Cannot read {name} in config.dataset.data_dir={root}: {error}.') from error
    if prepared is None and (base := name.partition(':')[0]) in cifar.CLASSES:
        cifar.prepare(base, root, config.manual_dir)
        prepared = records.find(name, root)
    if prepared is None:
        raise _not_prepared(name, root)
    if 'array_record' not in prepared.formats:
        raise DataError(
            f'{name} lies in {prepared.folder} as {prepared.formats[0]}, which only TensorFlow reads. '
            'Add array_record files to it (in an environment of its own, if you like): '
            f'{_CLI} convert_format --dataset_version_dir={prepared.folder} --out_file_format=array_record'
        )
    records.check_splits(prepared.name, splits, prepared.splits)
    return prepared


def folder_dataset_name(name: str, folder: str) -> str:
    """Returns what a folder is prepared as: `name`, unless that is empty or means another dataset already.

    Then, as with a config made for CIFAR-10, it is the folder's own name and a hash of its path. What this
    returns it leaves as it is when asked again.

    Raises:
        DataError: TFDS would not accept `name`.
    """
    if name and not _is_taken(name):
        if not re.fullmatch(r'[a-z][a-z0-9_]*', name):
            raise DataError(
                f'config.dataset.name={name}: what is made of a folder needs a name of lower-case letters, '
                'digits and _, such as my_faces.'
            )
        return name
    path = Path(folder).expanduser().resolve()
    readable = re.sub(r'[^a-z0-9]+', '_', path.name.lower()).strip('_')
    return f'folder_{readable}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}'


def _is_taken(name: str) -> bool:
    import tensorflow_datasets as tfds

    return name == 'digits' or name in tfds.list_builders(with_community_datasets=False)


def _not_prepared(name: str, root: Path) -> DataError:
    import tensorflow_datasets as tfds

    base = name.partition(':')[0].partition('/')[0]
    found = sorted(str(path.parent.relative_to(root)) for path in root.glob(f'{base}/**/dataset_info.json'))
    there = f' (only {", ".join(found)})' if found else ''
    if name.partition(':')[0] in cifar.CLASSES:
        return DataError(f'{name} is not prepared in {root}{there}. Use config.dataset.name={base}.')
    known = tfds.list_builders(with_community_datasets=False)
    if base in known or found:
        return DataError(
            f'{name} is not prepared in {root}{there}, and TFDS prepares it only with TensorFlow. '
            'Choose another folder with --config.dataset.data_dir=DIR, or run (in an environment of its own, '
            f'if you like): {_CLI} build {name} --file_format=array_record --data_dir={root}'
        )
    lower = base.lower()
    longer = [other for other in known if other.startswith(lower)][:1]  # imagenet2012, svhn_cropped
    close = dict.fromkeys(longer + difflib.get_close_matches(lower, ['digits', *known], n=3))
    suggestion = f' Did you mean {" or ".join(close)}?' if close else ''
    return DataError(
        f'config.dataset.name={name}: neither prepared in {root}, nor digits, nor known to TFDS.{suggestion}'
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command above."""
    parser = argparse.ArgumentParser(
        prog='python -m input_pipeline.prepare', description='Makes a TFDS dataset of an image folder.'
    )
    parser.add_argument(
        '--folder',
        required=True,
        help='DIR/train/<class>/…, other splits and loose images beside it; or DIR/<class>/… alone',
    )
    parser.add_argument(
        '--name', required=True, help='of lower-case letters, digits and _; for config.dataset.name'
    )
    parser.add_argument(
        '--data_dir',
        default='',
        help="folder of all datasets, for config.dataset.data_dir; default: TFDS_DATA_DIR, or TFDS's own",
    )
    parser.add_argument(
        '--bad_images', choices=('fail', 'skip'), default='fail', help='what an unreadable image does'
    )
    parser.add_argument('--workers', type=int, default=0, help='processes; default: as many as pay')
    config = ConfigDict({**vars(parser.parse_args(arguments)), 'manual_dir': ''})
    for name in ('folder', 'name'):
        if not config[name]:
            parser.error(f'--{name} is empty')
    if config.workers < 0:
        parser.error(f'--workers={config.workers}: must be at least 1, or 0 for as many as pay')
    try:
        if _is_taken(config.name):
            raise DataError(f'--name={config.name} is another dataset already; choose one of your own.')
        find_or_prepare(config, (), workers=config.workers)
    except DataError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        print('stopped; the same command goes on with what is not prepared yet', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    main()
