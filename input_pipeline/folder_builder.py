"""Prepares a folder of images as a TFDS dataset (array_record), without TensorFlow.

The shards are written one by one (folder_shards.py) to DATA_DIR/NAME/1.0.0.incomplete, which a preparation
that was killed leaves for the next. The dataset appears under its own name in one move, complete.
"""

import contextlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from input_pipeline import DataError, decoding, folder_shards, folders, records
from input_pipeline.folder_shards import Shard, read_json, write_json
from input_pipeline.locking import locked
from input_pipeline.progress import track

VERSION = '1.0.0'
_NAME = '--config.dataset.name=, or --name= of input_pipeline.prepare'
REPORT = 'preparation.json'  # beside the dataset: where it is from, what was left out, what occurs twice
_BYTES_PER_PROCESS = 16e6  # less is read before another process has started
_NAMED = 10  # images in a message


def find_or_build(
    folder: str,
    name: str,
    root: Path,
    *,
    bad_images: str,
    splits: Sequence[str],
    workers: int,
) -> records.Prepared:
    """Returns ROOT/NAME/1.0.0, prepared from `folder` unless it is there and the folder is unchanged.

    Args:
        folder: laid out as `folders.scan` wants it. Where it is gone, what was prepared from it remains.
        name: of the dataset.
        root: folder of all datasets.
        bad_images: what an unreadable image does: 'fail', or 'skip', which leaves it out.
        splits: that it must have.
        workers: processes; 0: as many as pay.

    Raises:
        DataError: the folder cannot be used, or the dataset not be written, or `name` is taken.
    """
    source = Path(folder).expanduser().resolve()
    target = root / name / VERSION
    if not source.exists() and (read_json(target / REPORT) or {}).get('folder') == str(source):
        _say(f'{source} is gone; using {target}, prepared from it.')
        prepared = records.find(f'{name}:{VERSION}', root)
        records.check_splits(name, splits, prepared.splits)
        return prepared
    listing = folders.scan(source)
    records.check_splits(str(source), splits, listing.splits)
    try:
        if not _is_current(target, listing, bad_images):
            target.parent.mkdir(parents=True, exist_ok=True)
            waiting = f'Waiting for another process that prepares {name}.'
            with locked(target.parent / '.lock', lambda: _say(waiting)):
                if not _is_current(target, listing, bad_images):  # another process may have done it
                    _build(listing, name, target, bad_images, workers)
    except (OSError, RuntimeError) as error:  # the latter from array_record, such as on a full disk
        raise DataError(
            f'Cannot prepare {name} in {root}: {error}. Choose another folder with '
            '--config.dataset.data_dir=DIR, or make this one writable and free '
            f'{_bytes(listing) / 1e6:,.0f} MB there.'
        ) from error
    return records.find(f'{name}:{VERSION}', root)


def _is_current(target: Path, listing: folders.Listing, bad_images: str) -> bool:
    """Whether `target` was prepared from what lies in the folder now.

    Raises:
        DataError: it was prepared from something else, or lacks unreadable images where these are to fail.
    """
    if not target.exists():
        return False
    report = read_json(target / REPORT)
    if report is None:
        raise DataError(
            f'{target} is there, but was not prepared from a folder: choose another name than '
            f'{target.parent.name} ({_NAME}), or remove it.'
        )
    if report['fingerprint'] == listing.fingerprint:
        if report['unreadable'] and bad_images == 'fail':
            raise _unreadable(listing.folder, report['unreadable'])
        return True
    if report['folder'] != str(listing.folder):
        raise DataError(
            f'{target} was prepared from {report["folder"]}, not from {listing.folder}: choose another name '
            f'than {target.parent.name} ({_NAME}), or remove it.'
        )
    return False


def _build(listing: folders.Listing, name: str, target: Path, bad_images: str, workers: int) -> None:
    """Writes the shards that are not there yet and, once all are, moves them into place."""
    work = target.with_name(f'{VERSION}.incomplete')
    work.mkdir(exist_ok=True)
    if target.exists():
        _say(f'{listing.folder} has changed since {target} was prepared from it: preparing it anew.')
    if not listing.splits['train'][0].id.startswith(('train/', 'cls_data/')):
        _say(f'{listing.folder} has no folder train: its {len(listing.class_names)} folders are the classes.')
    shards = folder_shards.deal(listing)
    total = sum(len(shard.items) for shard in shards)
    title = f'Preparing {name} from {listing.folder}, {total:,} images (only this once)'
    processes = workers or max(1, min(decoding.core_count(), int(_bytes(listing) // _BYTES_PER_PROCESS), 64))
    done: dict[str, dict] = {}
    finished = folder_shards.finish(listing.folder, work, shards, processes, reuse_bad=bad_images == 'skip')
    with contextlib.closing(finished):  # its processes end where this fails
        for shard, content in track(finished, total, title, size=lambda pair: len(pair[0].items)):
            done[shard.name] = content
            if content['unreadable'] and bad_images == 'fail':
                bad = [image for part in done.values() for image in part['unreadable']]
                raise _unreadable(listing.folder, bad)
    report = _summarize(listing, shards, done)
    _assemble(listing, name, shards, done, report, work, target)
    _tell(listing, report, target)


def _unreadable(folder: Path, bad: list[tuple[str, str]]) -> DataError:
    listed = '; '.join(f'{path} ({reason})' for path, reason in sorted(bad)[:_NAMED])
    more = f'; and {len(bad) - _NAMED} more' if len(bad) > _NAMED else ''
    return DataError(
        f'Unreadable images in {folder}, {len(bad):,} found: {listed}{more}. Repair or remove them, or leave '
        'such images out with bad_images=skip (when training: --config.dataset.bad_images=skip). What is '
        'prepared is not done again.'
    )


def _summarize(listing: folders.Listing, shards: list[Shard], done: dict[str, dict]) -> dict:
    """Returns what goes into the report.

    Raises:
        DataError: a split, or a class of train, has no readable image.
    """
    digests: dict[str, dict[str, str]] = {split: {} for split in listing.splits}
    for shard in shards:
        digests[shard.split] |= done[shard.name]['digests']
    for split, readable in digests.items():
        if not readable:
            raise DataError(f'None of the images in split {split} of {listing.folder} can be read.')
    readable = {item.label for item in listing.splits['train'] if item.id in digests['train']}
    for label, name in enumerate(listing.class_names):
        if label not in readable:
            raise DataError(f'None of the training images of class {name} in {listing.folder} can be read.')
    train = {digest: path for path, digest in sorted(digests['train'].items(), reverse=True)}
    return {
        'folder': str(listing.folder),
        'fingerprint': listing.fingerprint,
        'ignored_files': listing.ignored.total(),
        'unreadable': sorted(bad for part in done.values() for bad in part['unreadable']),
        'duplicates': [
            (train[digest], path)
            for split, paths in digests.items()
            for path, digest in sorted(paths.items())
            if split != 'train' and digest in train
        ],
    }


def _assemble(
    listing: folders.Listing,
    name: str,
    shards: list[Shard],
    done: dict[str, dict],
    report: dict,
    work: Path,
    target: Path,
) -> None:
    """Makes a TFDS dataset of the shards and moves it to `target`, in place of what was there."""
    import tensorflow_datasets as tfds

    whole, old = work / 'whole', work / 'old'
    for left in (whole, old):  # by an attempt that was killed
        shutil.rmtree(left, ignore_errors=True)
    whole.mkdir()
    template = tfds.core.ShardedFileTemplate(whole, dataset_name=name, filetype_suffix='array_record')
    split_infos = []
    for split in listing.splits:
        # Without the shards in which nothing could be read.
        parts = [shard for shard in shards if shard.split == split and done[shard.name]['digests']]
        for index, shard in enumerate(parts):
            file = f'{name}-{split}.array_record-{index:05d}-of-{len(parts):05d}'
            _link(work / f'{shard.name}.array_record', whole / file)  # not moved: the next step may fail
        lengths = [len(done[shard.name]['digests']) for shard in parts]
        size = sum(done[shard.name]['bytes'] for shard in parts)
        split_infos.append(tfds.core.SplitInfo(split, lengths, size, template))
    features = {
        'image': tfds.features.Image(shape=(None, None, 3)),
        'label': tfds.features.ClassLabel(names=listing.class_names),
        'id': tfds.features.Text(),
    }
    tfds.folder_dataset.write_metadata(
        data_dir=whole,
        features=features,
        split_infos=split_infos,
        version=VERSION,
        filename_template=template,
        check_data=False,  # needs TensorFlow
        description=f'Prepared from the folder {listing.folder.name}.',
    )
    write_json(whole / REPORT, report)
    if target.exists():
        target.rename(old)
    whole.rename(target)
    shutil.rmtree(work)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _tell(listing: folders.Listing, report: dict, target: Path) -> None:
    bad, duplicates = report['unreadable'], report['duplicates']
    left_out = {path for path, _ in bad}
    counts = {split: sum(i.id not in left_out for i in items) for split, items in listing.splits.items()}
    sizes = ', '.join(f'{split} {count:,}' for split, count in counts.items())
    lines = [f'{target} is prepared: {sizes} images, {len(listing.class_names):,} classes in train.']
    if listing.ignored:
        kinds = ', '.join(
            f'{count:,} {suffix or "without"}' for suffix, count in listing.ignored.most_common(5)
        )
        lines.append(f'{listing.ignored.total():,} other files were ignored, by suffix: {kinds}')
    if bad:
        listed = ', '.join(path for path, _ in bad[:_NAMED])
        lines.append(f'warning: {len(bad):,} images were unreadable and left out: {listed}')
    if duplicates:
        listed = ', '.join(f'{path} = {train}' for train, path in duplicates[:_NAMED])
        lines.append(f'warning: {len(duplicates):,} images of other splits are in train too: {listed}')
    if bad or duplicates:
        lines.append(f'All of them are listed in {target / REPORT}')
    _say('\n'.join(lines))


def _bytes(listing: folders.Listing) -> int:
    return sum(item.size for items in listing.splits.values() for item in items)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
